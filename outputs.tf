output "function_name" {
  description = "Name of the Lambda function."
  value       = aws_lambda_function.this.function_name
}

output "function_arn" {
  description = "ARN of the Lambda function."
  value       = aws_lambda_function.this.arn
}

output "role_arn" {
  description = "ARN of the function's role, whether created or given."
  value       = local.role_arn
}

output "role_name" {
  description = "Name of the function's role, for attaching your own policies."
  value       = local.create_role ? one(aws_iam_role.function[*].name) : element(reverse(split("/", var.function.role_arn)), 0)
}

output "function_policy_json" {
  description = "The policy that the function's role needs. With `function.role_arn`, attach it to your role."
  value       = local.function_policy
}

output "queue_url" {
  description = "URL of the queue of events."
  value       = aws_sqs_queue.events.url
}

output "queue_arn" {
  description = "ARN of the queue of events."
  value       = aws_sqs_queue.events.arn
}

output "dead_letter_queue_url" {
  description = "URL of the queue of events that could not be finished or delivered."
  value       = aws_sqs_queue.dead_letters.url
}

output "dead_letter_queue_arn" {
  description = "ARN of the queue of events that could not be finished or delivered."
  value       = aws_sqs_queue.dead_letters.arn
}

output "event_source_mapping_uuid" {
  description = "UUID of the mapping from the queue to the function. `aws lambda update-event-source-mapping --no-enabled` stops it until the next apply; `paused = true` keeps it stopped."
  value       = aws_lambda_event_source_mapping.events.uuid
}

output "log_group_name" {
  description = "Name of the function's log group."
  value       = aws_cloudwatch_log_group.function.name
}

output "log_group_arn" {
  description = "ARN of the function's log group."
  value       = aws_cloudwatch_log_group.function.arn
}

output "event_rule_arn" {
  description = "ARN of the EventBridge rule for EC2's state changes in the function's account and region."
  value       = aws_cloudwatch_event_rule.instance_state.arn
}

output "event_bus_arn" {
  description = "ARN of the event bus for member accounts; null without `organization`."
  value       = one(aws_cloudwatch_event_bus.members[*].arn)
}

output "members_rule_arn" {
  description = "ARN of the EventBridge rule on the event bus for member accounts; null without `organization`."
  value       = one(aws_cloudwatch_event_rule.members[*].arn)
}

output "sweep_rule_arn" {
  description = "ARN of the EventBridge rule that starts the sweep; null if the sweep is off."
  value       = one(aws_cloudwatch_event_rule.sweep[*].arn)
}

output "inventory_table_name" {
  description = "Name of the DynamoDB table that records the instances; null if the inventory is off."
  value       = one(aws_dynamodb_table.inventory[*].name)
}

output "inventory_table_arn" {
  description = "ARN of the DynamoDB table that records the instances; null if the inventory is off."
  value       = one(aws_dynamodb_table.inventory[*].arn)
}

output "kms_key_arn" {
  description = "ARN of the key that seals the secrets, given or created; null if there are no secrets."
  value       = local.kms_key_arn
}

output "alarm_arns" {
  description = "ARNs of the CloudWatch alarms by their names without the prefix; empty if alarms are off."
  value       = { for key, alarm in aws_cloudwatch_metric_alarm.this : key => alarm.arn }
}

output "dashboard_name" {
  description = "Name of the CloudWatch dashboard; null if it is off."
  value       = one(aws_cloudwatch_dashboard.this[*].dashboard_name)
}

output "effective_config" {
  description = "The configuration that the function uses, defaults included. A misspelled attribute is missing here. A step that is off is null. Contains no secret."
  value = merge(local.config, {
    paused = var.paused

    route53 = local.config.route53 == null ? null : merge(local.config.route53, {
      zone_ids                = local.zones[*].id
      max_requests_per_second = var.route53.max_requests_per_second
    })
    queue = merge(local.config.queue, {
      batch_size                = var.queue.batch_size
      batch_window_seconds      = var.queue.batch_window_seconds
      max_concurrency           = var.queue.max_concurrency
      message_retention_seconds = var.queue.message_retention_seconds
      longest_outage_seconds    = local.longest_outage_seconds
    })
    sweep = local.config.sweep == null ? null : merge(local.config.sweep, {
      schedule_expression = var.sweep.schedule_expression
    })
    organization = try(merge(local.settings.organization, { organization_id = var.organization.organization_id }), null)
    http_steps   = try(local.settings.http_steps, {})

    function   = var.function
    log_group  = var.log_group
    alarms     = merge(var.alarms, { enabled = local.alarms_on })
    dashboard  = var.dashboard
    vpc_config = var.vpc_config
    package    = { type = var.package.type }
  })
}
