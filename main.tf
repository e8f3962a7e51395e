# The path of an event: rule, queue, event source mapping, function, log group.

# Rule: EC2 reports that an instance runs (the function records it) or is terminated (the function decommissions it).

resource "aws_cloudwatch_event_rule" "instance_state" {
  name        = local.state_rule_name
  description = "EC2 instances that start or are terminated"
  # Without steps and inventory, the function does nothing with an event.
  state = local.has_work ? "ENABLED" : "DISABLED"

  # Organizations often forward the events of their accounts to a default bus. The rule ignores events of other accounts
  # and regions there, because members have a separate bus (organization.tf).
  event_pattern = jsonencode({
    source        = ["aws.ec2"]
    "detail-type" = ["EC2 Instance State-change Notification"]
    account       = [local.account_id]
    region        = [local.region]
    detail        = { state = local.instance_states }
  })

  tags = var.tags
}

resource "aws_cloudwatch_event_target" "instance_state" {
  rule      = aws_cloudwatch_event_rule.instance_state.name
  target_id = "queue"
  arn       = aws_sqs_queue.events.arn

  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }

  # Undeliverable events go to the same queue as the function's unfinished events. Both are redriven in the same way.
  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }

  # Without the policies, the queues refuse events.
  depends_on = [aws_sqs_queue_policy.events, aws_sqs_queue_policy.dead_letters]
}

# Queue: keeps an event until every step has finished, or until the event goes to the dead-letter queue.

resource "aws_sqs_queue" "events" {
  name                       = local.queue_names.events
  visibility_timeout_seconds = local.visibility_timeout_seconds
  message_retention_seconds  = var.queue.message_retention_seconds
  sqs_managed_sse_enabled    = var.queue.kms_key_arn == null ? true : null
  kms_master_key_id          = var.queue.kms_key_arn

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = var.queue.max_receive_count
  })

  tags = var.tags
}

resource "aws_sqs_queue_policy" "events" {
  queue_url = aws_sqs_queue.events.id
  policy    = local.queue_policies.events
}

resource "aws_sqs_queue" "dead_letters" {
  name                      = local.queue_names.dead_letters
  message_retention_seconds = 1209600 # 14 days, the longest that SQS allows
  sqs_managed_sse_enabled   = var.queue.kms_key_arn == null ? true : null
  kms_master_key_id         = var.queue.kms_key_arn

  tags = var.tags
}

resource "aws_sqs_queue_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.id
  policy    = local.queue_policies.dead_letters
}

# Only the queue of events may use this dead-letter queue and get messages redriven from it.
resource "aws_sqs_queue_redrive_allow_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.id

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.events.arn]
  })

  # The provider waits 25 seconds after each change of a queue, so change this queue once at a time. The policy is
  # first, because it can be set while the other queue is created.
  depends_on = [aws_sqs_queue_policy.dead_letters]
}

# Event source mapping: invokes the function with batches, and returns unfinished messages to the queue.

resource "aws_lambda_event_source_mapping" "events" {
  event_source_arn                   = aws_sqs_queue.events.arn
  function_name                      = aws_lambda_function.this.arn
  enabled                            = !var.paused
  batch_size                         = var.queue.batch_size
  maximum_batching_window_in_seconds = var.queue.batch_window_seconds
  function_response_types            = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = var.queue.max_concurrency
  }

  tags = var.tags

  lifecycle {
    precondition {
      condition     = local.build_is_here
      error_message = "An earlier apply built the package but did not finish, and its zip (${jsonencode(local.missing_zips)}) is not on this machine. Build it again with: terraform apply -replace='<address of this module>.terraform_data.${local.build ? "package" : "bundle"}[0]' (or change package.rebuild)."
    }
  }
}

# Function: removes what the instance left behind.

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50:Tracing is the user's choice (function.tracing_mode)
  #checkov:skip=CKV_AWS_116:The function is called by the queue, which has a dead-letter queue
  #checkov:skip=CKV_AWS_173:The environment contains no secret; a key is the user's choice (function.environment_kms_key_arn)
  #checkov:skip=CKV_AWS_272:The default package is built by the apply, and AWS Signer signs objects in S3 only (function.code_signing_config_arn)

  function_name = var.name
  description   = "Removes what terminated EC2 instances leave behind"
  role          = local.role_arn
  handler       = "ec2_decommission.entry.handle"

  runtime       = var.function.runtime
  architectures = [var.function.architecture]
  memory_size   = local.memory_size
  timeout       = var.function.timeout

  # -1 leaves the function in the account's unreserved pool.
  reserved_concurrent_executions = coalesce(var.function.reserved_concurrent_executions, -1)

  filename                = local.code.filename
  s3_bucket               = local.code.s3_bucket
  s3_key                  = local.code.s3_key
  s3_object_version       = local.code.s3_object_version
  source_code_hash        = local.code.source_code_hash
  layers                  = aws_lambda_layer_version.bundle[*].arn
  code_signing_config_arn = var.function.code_signing_config_arn

  kms_key_arn = var.function.environment_kms_key_arn

  environment {
    variables = merge(local.environment, { DECOMMISSION_CONFIG = jsonencode(local.config) })
  }

  tracing_config {
    mode = var.function.tracing_mode
  }

  dynamic "vpc_config" {
    for_each = var.vpc_config == null ? [] : [var.vpc_config]

    content {
      subnet_ids                  = vpc_config.value.subnet_ids
      security_group_ids          = vpc_config.value.security_group_ids
      ipv6_allowed_for_dual_stack = vpc_config.value.ipv6_allowed_for_dual_stack
    }
  }

  tags = var.tags

  # The first event needs the permissions and the log group, and so does the last event before a destroy.
  depends_on = [aws_iam_role_policy.function, aws_cloudwatch_log_group.function]

  lifecycle {
    precondition {
      condition     = local.has_secrets ? split(":", local.kms_key_arn)[3] == local.region : true
      error_message = "kms_key_arn is ${jsonencode(var.kms_key_arn)}, but the function runs in ${local.region}: KMS decrypts the secrets only in the region of their key. Give a key of ${local.region}."
    }

    precondition {
      condition     = local.environment_bytes <= 4096
      error_message = "The function's environment would take up to ${local.environment_bytes} bytes, but Lambda allows 4096. Shorten record_names, zones, keep_names, lock_prefixes, instance_filter or the settings of custom_steps, or split the work over two calls of this module."
    }

    precondition {
      condition     = var.package.type != "prebuilt" || local.prebuilt_sha256 != null
      error_message = "package.zip_file is ${jsonencode(var.package.zip_file)}, but that file does not exist. Build it first (make package), or give package.code_sha256 if the file exists only when it changes."
    }
  }
}

# Log group: created before the function, because Lambda would create one that never expires. The log format is Lambda's
# default, text, because the function writes JSON lines itself and Lambda's JSON format would wrap them.

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:The retention is the user's choice (log_group.retention_in_days)

  name              = local.log_group_name
  retention_in_days = var.log_group.retention_in_days
  kms_key_id        = var.log_group.kms_key_arn

  tags = var.tags
}
