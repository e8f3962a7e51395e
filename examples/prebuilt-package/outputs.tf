output "function_name" {
  description = "Name of the Lambda function."
  value       = module.ec2_decommission.function_name
}

output "queue_url" {
  description = "URL of the queue of events."
  value       = module.ec2_decommission.queue_url
}

output "dead_letter_queue_url" {
  description = "URL of the queue of events that could not be finished."
  value       = module.ec2_decommission.dead_letter_queue_url
}

output "inventory_table_name" {
  description = "Name of the table that records the instances."
  value       = module.ec2_decommission.inventory_table_name
}

output "log_group_name" {
  description = "Name of the log group, which contains the reports."
  value       = module.ec2_decommission.log_group_name
}

output "effective_config" {
  description = "The configuration that the function uses, defaults included."
  value       = module.ec2_decommission.effective_config
}
