# One role. A statement exists only for what is on, and names its resources; "*" stands only where AWS
# knows nothing narrower.

resource "aws_iam_role" "function" {
  # IAM is global: the region keeps calls of the same name in two regions apart.
  name                 = "${var.name}-${local.region}"
  description          = "The function ${var.name} in ${local.region}"
  assume_role_policy   = data.aws_iam_policy_document.assume_role.json
  permissions_boundary = var.permissions_boundary_arn

  tags = var.tags
}

data "aws_iam_policy_document" "assume_role" {
  statement {
    sid     = "LambdaRunsTheFunction"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "function" {
  name   = "function"
  role   = aws_iam_role.function.id
  policy = data.aws_iam_policy_document.function.json

  lifecycle {
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    precondition {
      condition     = local.policy_characters <= 10240
      error_message = "The policy of the function's role would have up to ${local.policy_characters} characters, and IAM allows 10240. Give fewer route53.zone_ids or custom_steps.iam_statements, or split the work over two calls of this module."
    }
  }
}

data "aws_iam_policy_document" "function" {
  dynamic "statement" {
    for_each = local.function_statements

    content {
      sid       = statement.key
      effect    = statement.value.effect
      actions   = statement.value.actions
      resources = statement.value.resources

      dynamic "condition" {
        for_each = statement.value.conditions

        content {
          test     = condition.value.test
          variable = condition.value.variable
          values   = condition.value.values
        }
      }
    }
  }
}

locals {
  inventory_arns = aws_dynamodb_table.inventory[*].arn

  statements = [
    {
      sid       = "WriteLogs", on = true, effect = "Allow", conditions = []
      actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      resources = ["${aws_cloudwatch_log_group.function.arn}:*"]
    },
    {
      sid = "TakeEvents", on = true, effect = "Allow", conditions = []
      # ChangeMessageVisibility is how a retry backs off.
      actions   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
      resources = [aws_sqs_queue.events.arn]
    },
    {
      sid = "ReadInstances", on = true, effect = "Allow", conditions = []
      # EC2's Describe actions know no resource.
      actions   = ["ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces"]
      resources = ["*"]
    },
    {
      sid = "AttachToVpc", on = var.vpc_config != null, effect = "Allow", conditions = []
      # What AWSLambdaVPCAccessExecutionRole holds for EC2. Lambda asks for "*".
      actions = [
        "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
      ]
      resources = ["*"]
    },
    {
      # Lambda itself needs the rights above, the function's code does not.
      sid = "CodeMayNotAttachToVpc", on = var.vpc_config != null, effect = "Deny"
      actions = [
        "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
        "ec2:UnassignPrivateIpAddresses",
      ]
      resources = ["*"]
      conditions = [{
        test     = "ArnEquals"
        variable = "lambda:SourceFunctionArn"
        values   = ["arn:${local.partition}:lambda:${local.region}:${local.account_id}:function:${var.name}"]
      }]
    },
    {
      sid       = "ReadAndChangeRecords", on = var.route53.enabled, effect = "Allow", conditions = []
      actions   = ["route53:ChangeResourceRecordSets", "route53:GetHostedZone", "route53:ListResourceRecordSets"]
      resources = [for id in var.route53.zone_ids : "arn:${local.partition}:route53:::hostedzone/${id}"]
    },
    {
      sid       = "RememberInstances", on = var.inventory.enabled, effect = "Allow", conditions = []
      actions   = ["dynamodb:BatchGetItem", "dynamodb:UpdateItem"]
      resources = local.inventory_arns
    },
    {
      sid       = "ListLivingInstances", on = local.sweep_on, effect = "Allow", conditions = []
      actions   = ["dynamodb:Query"]
      resources = [for arn in local.inventory_arns : "${arn}/index/living"]
    },
    {
      sid       = "SendWhatTheSweepFound", on = local.sweep_on, effect = "Allow", conditions = []
      actions   = ["sqs:SendMessage"]
      resources = [aws_sqs_queue.events.arn]
    },
    {
      sid       = "OpenSecrets", on = local.has_secrets, effect = "Allow"
      actions   = ["kms:Decrypt"]
      resources = [local.kms_key_arn]
      conditions = [for key, value in local.encryption_context : {
        test     = "StringEquals"
        variable = "kms:EncryptionContext:${key}"
        values   = [value]
      }]
    },
    {
      sid = "WriteTraces", on = var.function.tracing_mode == "Active", effect = "Allow", conditions = []
      # X-Ray knows no resource for these.
      actions   = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"]
      resources = ["*"]
    },
  ]

  custom_step_statements = flatten([
    for name, step in local.custom_steps : [
      for index, statement in step.iam_statements : {
        sid        = "CustomStep${replace(title(replace(name, "_", " ")), " ", "")}${format("%02d", index)}"
        on         = true
        effect     = "Allow"
        actions    = statement.actions
        resources  = statement.resources
        conditions = statement.conditions
      }
    ]
  ])

  # The most that the policy can have: all of the module's own statements, with the longest names, take less than
  # 2600. What a user gives is known at plan.
  policy_characters = sum(concat(
    [2600],
    [for id in var.route53.zone_ids : length("\"arn:${local.partition}:route53:::hostedzone/${id}\",")],
    [for statement in local.custom_step_statements : length(jsonencode({
      Sid = statement.sid, Effect = statement.effect, Action = statement.actions, Resource = statement.resources
    })) + 1],
  ))

  # By sid.
  function_statements = {
    for statement in concat(local.statements, local.custom_step_statements) : statement.sid => statement if statement.on
  }
}

# Both queues admit this module's rules only, and nothing in clear text.
data "aws_iam_policy_document" "queue" {
  for_each = { events = aws_sqs_queue.events.arn, dead_letters = aws_sqs_queue.dead_letters.arn }

  statement {
    sid       = "AdmitTheRules"
    actions   = ["sqs:SendMessage"]
    resources = [each.value]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = concat([aws_cloudwatch_event_rule.instance_state.arn], aws_cloudwatch_event_rule.sweep[*].arn)
    }
  }

  statement {
    sid       = "RefuseClearText"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [each.value]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}
