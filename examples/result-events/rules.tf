# The function sends its events to the account's default bus. Each rule forwards some of them.

locals {
  summary_paths = {
    account = "$.detail.account_id"
    id      = "$.detail.id"
    request = "$.detail.request_id"
    region  = "$.detail.region"
    summary = "$.detail.summary"
    type    = "$.detail-type"
  }
}

# Email: all failures

resource "aws_cloudwatch_event_rule" "failed" {
  name        = "${var.name}-failed"
  description = "A decommission failed, or a sweep was braked"

  event_pattern = jsonencode({
    source      = ["ec2-decommission"]
    detail-type = ["EC2 Instance Decommission Failed", "Sweep Braked"]
  })
}

resource "aws_cloudwatch_event_target" "email" {
  rule = aws_cloudwatch_event_rule.failed.name
  arn  = aws_sns_topic.email.arn

  input_transformer {
    input_paths    = local.summary_paths
    input_template = <<-EOT
      "<type>"
      "<summary>"
      "Account <account>, region <region>. Request <request>. Event <id>."
    EOT
  }
}

resource "aws_sns_topic" "email" {
  #checkov:skip=CKV_AWS_26:EventBridge cannot use the AWS-managed key; give the topic a key of yours that admits events.amazonaws.com
  name = "${var.name}-email"
}

resource "aws_sns_topic_subscription" "email" {
  for_each = toset(var.email_addresses)

  topic_arn = aws_sns_topic.email.arn
  protocol  = "email"
  endpoint  = each.value
}

# Slack: all removals and failures

resource "aws_cloudwatch_event_rule" "news" {
  name        = "${var.name}-news"
  description = "Something was removed, a decommission failed, or a sweep was braked"

  event_pattern = jsonencode({
    source = ["ec2-decommission"]
    "$or" = [
      { detail-type = ["EC2 Instance Decommission Failed", "Sweep Braked"] },
      { detail-type = ["EC2 Instance Decommissioned"], detail = { steps = { status = ["done"] } } },
    ]
  })
}

resource "aws_cloudwatch_event_target" "slack" {
  rule = aws_cloudwatch_event_rule.news.name
  arn  = aws_sns_topic.slack.arn

  # The chat service accepts only its own notification format.
  # https://docs.aws.amazon.com/chatbot/latest/adminguide/custom-notifs.html
  input_transformer {
    input_paths    = local.summary_paths
    input_template = <<-EOT
      {
        "version": "1.0",
        "source": "custom",
        "id": "<id>",
        "content": {
          "textType": "client-markdown",
          "title": "<type>",
          "description": "<summary>"
        },
        "metadata": {
          "additionalContext": {"account": "<account>", "region": "<region>", "request": "<request>"}
        }
      }
    EOT
  }
}

resource "aws_sns_topic" "slack" {
  #checkov:skip=CKV_AWS_26:EventBridge cannot use the AWS-managed key; give the topic a key of yours that admits events.amazonaws.com
  name = "${var.name}-slack"
}

resource "aws_chatbot_slack_channel_configuration" "this" {
  count = var.slack == null ? 0 : 1

  configuration_name    = var.name
  slack_team_id         = var.slack.team_id
  slack_channel_id      = var.slack.channel_id
  iam_role_arn          = aws_iam_role.slack[0].arn
  guardrail_policy_arns = ["arn:aws:iam::aws:policy/AWSDenyAll"] # the channel only shows notifications, and cannot run commands
  sns_topic_arns        = [aws_sns_topic.slack.arn]
}

resource "aws_iam_role" "slack" {
  count = var.slack == null ? 0 : 1

  name = "${var.name}-slack"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "chatbot.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

# Allow EventBridge to publish to the topics, only for these rules

resource "aws_sns_topic_policy" "this" {
  for_each = {
    email = { topic = aws_sns_topic.email.arn, rule = aws_cloudwatch_event_rule.failed.arn }
    slack = { topic = aws_sns_topic.slack.arn, rule = aws_cloudwatch_event_rule.news.arn }
  }

  arn = each.value.topic
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sns:Publish"
      Resource  = each.value.topic
      Condition = { ArnEquals = { "aws:SourceArn" = each.value.rule } }
    }]
  })
}
