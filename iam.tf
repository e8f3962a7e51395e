# One role. It has statements only for enabled features. Each statement names its resources; "*" is used only if AWS
# supports nothing narrower. Statements contain names instead of resource references, so that a plan shows a change of
# the policy only if the policy changes.

resource "aws_iam_role" "function" {
  count = local.create_role ? 1 : 0

  # IAM is global. The region in the name keeps calls of the same name in two regions apart.
  name                 = "${var.name}-${local.region}"
  path                 = var.function.role_path
  description          = "The function ${var.name} in ${local.region}"
  assume_role_policy   = local.assume_role_policy
  permissions_boundary = var.permissions_boundary_arn

  tags = var.tags
}

resource "aws_iam_role_policy" "function" {
  count = local.create_role ? 1 : 0

  name   = "function"
  role   = aws_iam_role.function[0].id
  policy = local.function_policy

  lifecycle {
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    precondition {
      condition     = local.policy_characters <= 10240
      error_message = "The policy of the function's role would have up to ${local.policy_characters} characters, but IAM allows 10240. Give fewer route53.zone_ids, route53.zones or custom_steps.iam_statements, or split the work over two calls of this module."
    }
  }
}

moved {
  from = aws_iam_role.function
  to   = aws_iam_role.function[0]
}

moved {
  from = aws_iam_role_policy.function
  to   = aws_iam_role_policy.function[0]
}

locals {
  create_role = var.function.create_role != null ? var.function.create_role : var.function.role_arn == null
  role_arn    = local.create_role ? one(aws_iam_role.function[*].arn) : var.function.role_arn

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "LambdaRunsTheFunction"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })

  # The policy lists the ARNs of the member roles if they fit, otherwise the role name and the accounts. If even the
  # accounts do not fit, it lists the role name and the organization.
  members       = try(var.organization.members, {})
  members_named = length(local.members) <= 40

  # The statements of the role, for two places: the real one, and the longest one, to compute the policy's maximum size.
  statements = [
    for place in [
      merge(local.place, { key_arn = local.kms_key_arn }),
      merge(local.longest_place, { key_arn = "arn:aws-us-gov:kms:ap-southeast-1:000000000000:key/mrk-00000000000000000000000000000000" }),
      ] : concat([
        {
          on       = true
          Sid      = "WriteLogs"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = ["arn:${place.partition}:logs:${place.region}:${place.account_id}:log-group:${local.log_group_name}:*"]
        },
        {
          on  = true
          Sid = "TakeEvents"
          # A retry backs off with ChangeMessageVisibility.
          Action   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
          Resource = ["arn:${place.partition}:sqs:${place.region}:${place.account_id}:${var.name}"]
        },
        {
          # A sweep sends a message for each place that it serves, and for each instance that it finds.
          on       = local.sweep_on || var.organization != null
          Sid      = "SendWhatTheSweepFound"
          Action   = ["sqs:SendMessage"]
          Resource = ["arn:${place.partition}:sqs:${place.region}:${place.account_id}:${var.name}"]
        },
        {
          on        = var.queue.kms_key_arn != null
          Sid       = "UseTheKeyOfTheQueue"
          Action    = local.sweep_on || var.organization != null ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"]
          Resource  = [var.queue.kms_key_arn]
          Condition = { StringLike = { "kms:ViaService" = "sqs.${place.region}.amazonaws.com*" } }
        },
        {
          # EC2's Describe actions support no narrower resource.
          on       = true
          Sid      = "ReadInstances"
          Action   = ["ec2:DescribeAddresses", "ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces"]
          Resource = ["*"]
        },
        {
          on       = length([for account in keys(local.members) : account if account != place.account_id]) > 0
          Sid      = "AssumeMemberRoles"
          Action   = ["sts:AssumeRole"]
          Resource = local.members_named ? [for account in keys(local.members) : "arn:${place.partition}:iam::${account}:role/${var.organization.role_name}" if account != place.account_id] : ["arn:${place.partition}:iam::*:role/${var.organization.role_name}"]
          Condition = local.members_named ? null : {
            StringEquals = length(local.members) <= 200 ? { "aws:ResourceAccount" = keys(local.members) } : { "aws:ResourceOrgID" = [var.organization.organization_id] }
          }
        },
        {
          # The EC2 permissions of AWSLambdaVPCAccessExecutionRole. Lambda requires "*".
          on  = var.vpc_config != null
          Sid = "AttachToVpc"
          Action = [
            "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
            "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
          ]
          Resource = ["*"]
        },
        {
          # Lambda itself needs the permissions above. The function's code does not.
          on     = var.vpc_config != null
          Sid    = "CodeMayNotAttachToVpc"
          Effect = "Deny"
          Action = [
            "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
            "ec2:UnassignPrivateIpAddresses",
          ]
          Resource = ["*"]
          Condition = {
            ArnEquals = { "lambda:SourceFunctionArn" = "arn:${place.partition}:lambda:${place.region}:${place.account_id}:function:${var.name}" }
          }
        },
        {
          on       = local.route53_on && length(local.own_zone_ids) > 0
          Sid      = "ReadRecords"
          Action   = ["route53:GetHostedZone", "route53:ListResourceRecordSets"]
          Resource = [for id in local.own_zone_ids : "arn:${place.partition}:route53:::hostedzone/${id}"]
        },
        {
          # CREATE, because removing one of several addresses means to delete the record set and create the rest again.
          on       = local.route53_on && length(local.own_zone_ids) > 0
          Sid      = "ChangeRecords"
          Action   = ["route53:ChangeResourceRecordSets"]
          Resource = [for id in local.own_zone_ids : "arn:${place.partition}:route53:::hostedzone/${id}"]
          Condition = {
            "ForAllValues:StringEquals" = {
              "route53:ChangeResourceRecordSetsActions"     = ["CREATE", "DELETE"]
              "route53:ChangeResourceRecordSetsRecordTypes" = ["A", "AAAA", "CNAME", "PTR"]
            }
          }
        },
        {
          on       = local.route53_on && length(local.zone_role_arns) > 0
          Sid      = "AssumeZoneRoles"
          Action   = ["sts:AssumeRole"]
          Resource = local.zone_role_arns
        },
        {
          on       = var.inventory.enabled
          Sid      = "RememberInstances"
          Action   = ["dynamodb:BatchGetItem", "dynamodb:UpdateItem"]
          Resource = ["arn:${place.partition}:dynamodb:${place.region}:${place.account_id}:table/${local.inventory_table_name}"]
        },
        {
          on       = local.sweep_on
          Sid      = "ListWhatToSweep"
          Action   = ["dynamodb:Query"]
          Resource = ["arn:${place.partition}:dynamodb:${place.region}:${place.account_id}:table/${local.inventory_table_name}/index/sweep"]
        },
        {
          # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
          on        = var.inventory.enabled && var.inventory.kms_key_arn != null
          Sid       = "UseTheKeyOfTheInventory"
          Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
          Resource  = [var.inventory.kms_key_arn]
          Condition = { StringLike = { "kms:ViaService" = "dynamodb.${place.region}.amazonaws.com*" } }
        },
        {
          on        = local.has_secrets
          Sid       = "OpenSecrets"
          Action    = ["kms:Decrypt"]
          Resource  = [place.key_arn]
          Condition = { StringEquals = { for key, value in local.encryption_context : "kms:EncryptionContext:${key}" => value } }
        },
        {
          on       = var.function.environment_kms_key_arn != null
          Sid      = "OpenTheEnvironment"
          Action   = ["kms:Decrypt"]
          Resource = [var.function.environment_kms_key_arn]
          Condition = {
            StringEquals = { "kms:EncryptionContext:aws:lambda:FunctionArn" = "arn:${place.partition}:lambda:${place.region}:${place.account_id}:function:${var.name}" }
          }
        },
        {
          on        = local.result_events_on
          Sid       = "SendResults"
          Action    = ["events:PutEvents"]
          Resource  = [startswith(var.result_events.event_bus_name, "arn:") ? var.result_events.event_bus_name : "arn:${place.partition}:events:${place.region}:${place.account_id}:event-bus/${var.result_events.event_bus_name}"]
          Condition = { "ForAllValues:StringEquals" = { "events:source" = ["ec2-decommission"] } }
        },
        {
          on       = var.audit != null
          Sid      = "KeepAndRestore"
          Action   = ["s3:GetObject", "s3:PutObject"]
          Resource = ["arn:${place.partition}:s3:::${try(var.audit.bucket, "")}/${local.audit_prefix}*"]
        },
        {
          on        = var.audit != null
          Sid       = "ListWhatIsKept"
          Action    = ["s3:ListBucket"]
          Resource  = ["arn:${place.partition}:s3:::${try(var.audit.bucket, "")}"]
          Condition = { StringLike = { "s3:prefix" = "${local.audit_prefix}*" } }
        },
        {
          on        = try(var.audit.kms_key_arn, null) != null
          Sid       = "UseTheKeyOfTheAudit"
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = [try(var.audit.kms_key_arn, null)]
          Condition = { StringLike = { "kms:ViaService" = "s3.${place.region}.amazonaws.com*" } }
        },
        {
          # These X-Ray actions support no narrower resource.
          on       = var.function.tracing_mode == "Active"
          Sid      = "WriteTraces"
          Action   = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"]
          Resource = ["*"]
        },
    ], local.custom_step_statements)
  ]

  own_zone_ids   = [for zone in local.zones : zone.id if zone.role_arn == null]
  zone_role_arns = distinct([for zone in local.zones : zone.role_arn if zone.role_arn != null])

  custom_step_statements = flatten([
    for name, step in local.custom_steps : [
      for index, statement in step.iam_statements : {
        on       = true
        Sid      = "CustomStep${replace(title(replace(name, "_", " ")), " ", "")}${format("%02d", index)}"
        Action   = statement.actions
        Resource = statement.resources
        Condition = length(statement.conditions) == 0 ? null : {
          for test in distinct(statement.conditions[*].test) : test => {
            for variable, values in { for condition in statement.conditions : condition.variable => condition.values... if condition.test == test } : variable => flatten(values)
          }
        }
      }
    ]
  ])

  # The policy documents: the statements that are on, without unset attributes.
  policies = [
    for statements in local.statements : jsonencode({
      Version = "2012-10-17"
      Statement = [
        for statement in statements : { for key, value in merge({ Effect = "Allow" }, statement) : key => value if key != "on" && value != null } if statement.on
      ]
    })
  ]
  function_policy   = local.policies[0]
  policy_characters = length(local.policies[1])
}

# Queue policies: EventBridge may send only for this module's rules, and every request must use TLS.

locals {
  events_arn = "arn:${local.place.partition}:events:${local.region}:${local.account_id}"
  queues_arn = "arn:${local.place.partition}:sqs:${local.region}:${local.account_id}"
  rule_arns = concat(
    ["${local.events_arn}:rule/${local.state_rule_name}"],
    local.sweep_on ? ["${local.events_arn}:rule/${local.sweep_rule_name}"] : [],
    var.organization != null ? ["${local.events_arn}:rule/${local.event_bus_name}/${local.members_rule_name}"] : [],
  )

  queue_names = { events = var.name, dead_letters = "${var.name}-dead-letters" }
  queue_policies = {
    for key, name in local.queue_names : key => jsonencode({
      Version = "2012-10-17"
      Statement = [
        {
          Sid       = "AdmitTheRules"
          Effect    = "Allow"
          Principal = { Service = "events.amazonaws.com" }
          Action    = "sqs:SendMessage"
          Resource  = "${local.queues_arn}:${name}"
          Condition = { ArnEquals = { "aws:SourceArn" = local.rule_arns } }
        },
        {
          Sid       = "RefuseClearText"
          Effect    = "Deny"
          Principal = "*"
          Action    = "sqs:*"
          Resource  = "${local.queues_arn}:${name}"
          Condition = { Bool = { "aws:SecureTransport" = "false" } }
        },
      ]
    })
  }
}
