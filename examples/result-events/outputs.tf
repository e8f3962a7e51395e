output "function_name" {
  description = "The function to invoke by hand."
  value       = module.ec2_decommission.function_name
}

output "queue_url" {
  description = "The queue that holds the events."
  value       = module.ec2_decommission.queue_url
}

output "dead_letter_queue_url" {
  description = "Where the events are that could not be finished."
  value       = module.ec2_decommission.dead_letter_queue_url
}

output "inventory_table_name" {
  description = "The table that remembers the instances."
  value       = module.ec2_decommission.inventory_table_name
}

output "log_group_name" {
  description = "Where the reports are."
  value       = module.ec2_decommission.log_group_name
}

output "effective_config" {
  description = "What the function will really do."
  value       = module.ec2_decommission.effective_config
}

output "email_topic_arn" {
  description = "The topic that gets everything that failed."
  value       = aws_sns_topic.email.arn
}

output "slack_topic_arn" {
  description = "The topic that gets what was removed, and everything that failed."
  value       = aws_sns_topic.slack.arn
}
