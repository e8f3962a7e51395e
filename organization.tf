# The bus that member accounts and regions forward their events to (modules/member). Only with organization.

resource "aws_cloudwatch_event_bus" "members" {
  count = var.organization == null ? 0 : 1

  name        = local.event_bus_name
  description = "EC2 instances of member accounts that start or are terminated"

  tags = var.tags
}

resource "aws_cloudwatch_event_bus_policy" "members" {
  count = var.organization == null ? 0 : 1

  event_bus_name = aws_cloudwatch_event_bus.members[0].name

  # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-conditions.html
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AdmitTheMembers"
      Effect    = "Allow"
      Principal = local.organization_id == null ? { AWS = [for account in keys(local.members) : "arn:${local.place.partition}:iam::${account}:root"] } : { AWS = ["*"] }
      Action    = "events:PutEvents"
      Resource  = "${local.events_arn}:event-bus/${local.event_bus_name}"
      Condition = {
        StringEquals = merge(
          { "events:source" = "aws.ec2", "events:detail-type" = "EC2 Instance State-change Notification" },
          local.organization_id == null ? {} : { "aws:PrincipalOrgID" = local.organization_id },
        )
      }
    }]
  })
}

resource "aws_cloudwatch_event_rule" "members" {
  count = var.organization == null ? 0 : 1

  name           = local.members_rule_name
  event_bus_name = aws_cloudwatch_event_bus.members[0].name
  description    = "EC2 instances of member accounts that start or are terminated"
  state          = local.has_work ? "ENABLED" : "DISABLED"

  # A pattern has at most 2048 characters, enough for 100 accounts. Above that, only the bus policy and the function
  # filter the accounts. The function also checks the regions, because each account has its own.
  event_pattern = jsonencode(merge(
    {
      source        = ["aws.ec2"]
      "detail-type" = ["EC2 Instance State-change Notification"]
      detail        = { state = local.instance_states }
    },
    { for key, accounts in { account = keys(local.members) } : key => accounts if length(accounts) <= 100 },
  ))

  tags = var.tags
}

resource "aws_cloudwatch_event_target" "members" {
  count = var.organization == null ? 0 : 1

  rule           = aws_cloudwatch_event_rule.members[0].name
  event_bus_name = aws_cloudwatch_event_bus.members[0].name
  target_id      = "queue"
  arn            = aws_sqs_queue.events.arn

  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }

  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }

  depends_on = [aws_sqs_queue_policy.events, aws_sqs_queue_policy.dead_letters]
}

locals {
  organization_id = try(var.organization.organization_id, null)
}
