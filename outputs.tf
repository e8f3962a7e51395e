output "function_name" {
  description = "Name of the Lambda function."
  value       = aws_lambda_function.this.function_name
}

output "function_arn" {
  description = "ARN of the Lambda function."
  value       = aws_lambda_function.this.arn
}

output "role_arn" {
  description = "ARN of the function's role."
  value       = aws_iam_role.function.arn
}

output "role_name" {
  description = "Name of the function's role, to attach policies of your own."
  value       = aws_iam_role.function.name
}

output "queue_url" {
  description = "URL of the queue that holds the events."
  value       = aws_sqs_queue.events.url
}

output "queue_arn" {
  description = "ARN of the queue that holds the events."
  value       = aws_sqs_queue.events.arn
}

output "dead_letter_queue_url" {
  description = "URL of the queue that keeps the events which could not be finished or delivered."
  value       = aws_sqs_queue.dead_letters.url
}

output "dead_letter_queue_arn" {
  description = "ARN of the queue that keeps the events which could not be finished or delivered."
  value       = aws_sqs_queue.dead_letters.arn
}

output "log_group_name" {
  description = "Name of the function's log group."
  value       = aws_cloudwatch_log_group.function.name
}

output "event_rule_arn" {
  description = "ARN of the EventBridge rule that takes EC2's state changes."
  value       = aws_cloudwatch_event_rule.instance_state.arn
}

output "sweep_rule_arn" {
  description = "ARN of the EventBridge rule that starts the sweep; null when the sweep is off."
  value       = one(aws_cloudwatch_event_rule.sweep[*].arn)
}

output "inventory_table_name" {
  description = "Name of the DynamoDB table that remembers the instances; null when the inventory is off."
  value       = one(aws_dynamodb_table.inventory[*].name)
}

output "kms_key_arn" {
  description = "ARN of the key that seals the secrets bundle, given or made; null when there are no secrets."
  value       = local.kms_key_arn
}

output "dashboard_name" {
  description = "Name of the CloudWatch dashboard; null when it is off."
  value       = one(aws_cloudwatch_dashboard.this[*].dashboard_name)
}

output "effective_config" {
  description = "What the function will really do, after defaults: an attribute that was misspelt is missing here. A step that is off is null. Holds no secret."
  value = merge(local.config, {
    queue = merge(local.config.queue, {
      batch_size                 = var.queue.batch_size
      batch_window_seconds       = var.queue.batch_window_seconds
      max_concurrency            = var.queue.max_concurrency
      visibility_timeout_seconds = local.visibility_timeout_seconds
      message_retention_seconds  = var.queue.message_retention_seconds
      longest_outage_seconds     = local.longest_outage_seconds
    })
    sweep = local.config.sweep == null ? null : merge(local.config.sweep, {
      schedule_expression = var.sweep.schedule_expression
    })
    function   = var.function
    log_group  = var.log_group
    alarms     = var.alarms
    dashboard  = var.dashboard
    vpc_config = var.vpc_config
    package    = { type = var.package.type }
  })
}
