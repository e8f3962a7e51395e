# A member of an ec2-decommission deployment: one account and one region whose instances the deployment serves.
# stackset.yaml has the same resources for CloudFormation. A test compares both.

locals {
  # Partition, region and account come from an ARN in the state. If something changes that the call of this module
  # depends on, Terraform defers a data source to the apply.
  queue_arn  = split(":", aws_sqs_queue.undelivered.arn)
  partition  = local.queue_arn[1]
  region     = local.queue_arn[3]
  account_id = local.queue_arn[4]

  rule_name = "${var.role_name}-instance-state"
  rule_arn  = "arn:${local.partition}:events:${local.region}:${local.account_id}:rule/${local.rule_name}"
}

# Rule: forwards EC2's state changes in this account and region to the deployment's event bus.

resource "aws_cloudwatch_event_rule" "instance_state" {
  name        = local.rule_name
  description = "EC2 instances that start or are terminated"

  event_pattern = jsonencode({
    source        = ["aws.ec2"]
    "detail-type" = ["EC2 Instance State-change Notification"]
    account       = [local.account_id]
    region        = [local.region]
    detail        = { state = ["running", "terminated"] }
  })

  tags = var.tags
}

resource "aws_cloudwatch_event_target" "event_bus" {
  rule      = aws_cloudwatch_event_rule.instance_state.name
  target_id = "event-bus"
  arn       = var.event_bus_arn
  role_arn  = aws_iam_role.forwarder.arn

  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }

  dead_letter_config {
    arn = aws_sqs_queue.undelivered.arn
  }

  # Without the policies, the bus and the queue refuse events.
  depends_on = [aws_iam_role_policy.forwarder, aws_sqs_queue_policy.undelivered]
}

# Forwarder: EventBridge may put events on that bus, and nothing else.

resource "aws_iam_role" "forwarder" {
  # IAM is global. The region in the name keeps the regions of an account apart.
  name                 = "${var.role_name}-${local.region}"
  description          = "Forwards EC2 state changes of ${local.region} to ec2-decommission"
  permissions_boundary = var.permissions_boundary_arn

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "EventBridgeForwards"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "events.amazonaws.com" }
      Condition = {
        ArnEquals    = { "aws:SourceArn" = local.rule_arn }
        StringEquals = { "aws:SourceAccount" = local.account_id }
      }
    }]
  })

  tags = var.tags
}

resource "aws_iam_role_policy" "forwarder" {
  name = "forwarder"
  role = aws_iam_role.forwarder.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "PutEvents"
      Effect   = "Allow"
      Action   = "events:PutEvents"
      Resource = var.event_bus_arn
    }]
  })
}

# Queue of events that the bus did not accept.

resource "aws_sqs_queue" "undelivered" {
  name                      = "${var.role_name}-undelivered"
  message_retention_seconds = 1209600 # 14 days, the longest that SQS allows
  sqs_managed_sse_enabled   = true

  tags = var.tags
}

resource "aws_sqs_queue_policy" "undelivered" {
  queue_url = aws_sqs_queue.undelivered.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "AdmitTheRule"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = aws_sqs_queue.undelivered.arn
        Condition = { ArnEquals = { "aws:SourceArn" = local.rule_arn } }
      },
      {
        Sid       = "RefuseClearText"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = aws_sqs_queue.undelivered.arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

# Reader: the function may read instances, interfaces and addresses, and nothing else. One role serves all regions.

resource "aws_iam_role" "reader" {
  count = var.create_role ? 1 : 0

  name                 = var.role_name
  description          = "Lets ec2-decommission look at EC2 instances"
  permissions_boundary = var.permissions_boundary_arn

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      for statement in [{
        Sid       = "TheFunctionReads"
        Effect    = "Allow"
        Action    = "sts:AssumeRole"
        Principal = { AWS = var.function_role_arn }
        Condition = var.external_id == null ? null : { StringEquals = { "sts:ExternalId" = var.external_id } }
      }] : { for key, value in statement : key => value if value != null }
    ]
  })

  tags = var.tags
}

resource "aws_iam_role_policy" "reader" {
  count = var.create_role ? 1 : 0

  name = "reader"
  role = aws_iam_role.reader[0].id

  # EC2's Describe actions support no narrower resource.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "ReadInstances"
      Effect   = "Allow"
      Action   = ["ec2:DescribeAddresses", "ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces"]
      Resource = "*"
    }]
  })
}
