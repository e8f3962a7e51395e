# The path of an event, in its order: rule, queue, event source mapping, function, log group.

# Rule: EC2 says that an instance runs (it is remembered) or is terminated (it is decommissioned).

resource "aws_cloudwatch_event_rule" "instance_state" {
  name        = "${var.name}-instance-state"
  description = "EC2 instances that start or are terminated"
  # With nothing to do, no event is taken: the stack stands idle and costs nothing.
  state = local.has_work ? "ENABLED" : "DISABLED"

  event_pattern = jsonencode({
    source        = ["aws.ec2"]
    "detail-type" = ["EC2 Instance State-change Notification"]
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

  # What EventBridge cannot deliver lands beside what the function could not finish: the same body,
  # the same way back.
  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }

  # An event that comes before the policies would be refused.
  depends_on = [aws_sqs_queue_policy.events, aws_sqs_queue_policy.dead_letters]
}

# Queue: holds an event until every step is done with it, or until it becomes a dead letter.

resource "aws_sqs_queue" "events" {
  name                       = var.name
  visibility_timeout_seconds = local.visibility_timeout_seconds
  message_retention_seconds  = var.queue.message_retention_seconds
  sqs_managed_sse_enabled    = true

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = var.queue.max_receive_count
  })

  tags = var.tags
}

resource "aws_sqs_queue_policy" "events" {
  queue_url = aws_sqs_queue.events.id
  policy    = data.aws_iam_policy_document.queue["events"].json
}

resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.name}-dead-letters"
  message_retention_seconds = 1209600 # 14 days, the longest that SQS keeps
  sqs_managed_sse_enabled   = true

  tags = var.tags
}

resource "aws_sqs_queue_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.id
  policy    = data.aws_iam_policy_document.queue["dead_letters"].json
}

# Event source mapping: hands the function batches, and takes back what it could not finish.

resource "aws_lambda_event_source_mapping" "events" {
  event_source_arn                   = aws_sqs_queue.events.arn
  function_name                      = aws_lambda_function.this.arn
  batch_size                         = var.queue.batch_size
  maximum_batching_window_in_seconds = var.queue.batch_window_seconds
  function_response_types            = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = var.queue.max_concurrency
  }

  tags = var.tags
}

# Function: removes what the instance left behind.

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50:Tracing is the user's choice (function.tracing_mode)
  #checkov:skip=CKV_AWS_116:The function is called by the queue, which has a dead-letter queue
  #checkov:skip=CKV_AWS_173:The environment holds no secret
  #checkov:skip=CKV_AWS_272:A signing profile signs objects in S3, and the default package is built by the apply

  function_name = var.name
  description   = "Removes what terminated EC2 instances leave behind"
  role          = aws_iam_role.function.arn
  handler       = "ec2_decommission.entry.handle"

  runtime       = var.function.runtime
  architectures = [var.function.architecture]
  memory_size   = var.function.memory_size
  timeout       = var.function.timeout

  # -1 leaves the function in the account's unreserved pool.
  reserved_concurrent_executions = coalesce(var.function.reserved_concurrent_executions, -1)

  filename          = local.code.filename
  s3_bucket         = local.code.s3_bucket
  s3_key            = local.code.s3_key
  s3_object_version = local.code.s3_object_version
  source_code_hash  = local.code.source_code_hash

  environment {
    variables = merge(local.environment, { DECOMMISSION_CONFIG = jsonencode(local.config) })
  }

  tracing_config {
    mode = var.function.tracing_mode
  }

  dynamic "vpc_config" {
    for_each = var.vpc_config == null ? [] : [var.vpc_config]

    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  tags = var.tags

  # A first event must find the rights and the log group there; the last one too, on destroy.
  depends_on = [aws_iam_role_policy.function, aws_cloudwatch_log_group.function]

  lifecycle {
    precondition {
      condition     = local.has_secrets ? split(":", local.kms_key_arn)[3] == local.region : true
      error_message = "kms_key_arn is ${jsonencode(var.kms_key_arn)}, a key of another region than ${local.region}, where the function runs: KMS opens the secrets only in the region of the key that sealed them."
    }

    precondition {
      condition     = local.environment_bytes <= 4096
      error_message = "The function's environment would take ${local.environment_bytes} bytes, and Lambda allows 4096. Shorten record_names, zone_ids, lock_prefixes, instance_filter or the settings of custom_steps, or split the work over two calls of this module."
    }

    precondition {
      condition     = var.package.type != "prebuilt" || local.prebuilt_sha256 != null
      error_message = "package.zip_file names ${jsonencode(var.package.zip_file)}, and no such file is there. Build it first (make package), or give package.code_sha256 where the file is needed only when it changes."
    }
  }
}

# Log group: made before the function, or Lambda would make one that never expires. The log format stays
# Lambda's default, text: the function writes JSON lines itself, which Lambda's JSON format would wrap.

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:The retention is the user's choice (log_group.retention_in_days)

  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_group.retention_in_days
  kms_key_id        = var.log_group.kms_key_arn

  tags = var.tags
}
