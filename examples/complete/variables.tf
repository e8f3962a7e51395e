variable "region" {
  description = "Region whose instances are handled."
  type        = string
  default     = "eu-west-1"
}

variable "name" {
  description = "Prefix of all resource names."
  type        = string
  default     = "ec2-decommission"
}

variable "dry_run" {
  description = "Report what would be removed, and remove nothing."
  type        = bool
  default     = false
}

variable "zone_ids" {
  description = "Hosted zones to remove records from, including reverse zones."
  type        = list(string)
}

variable "record_names" {
  description = "Templates of an instance's DNS names, zone included."
  type        = list(string)
  default     = ["{tag:Name}.example.internal"]
}

variable "chef_server_url" {
  description = "URL of the Chef Infra Server, with the organization if there is one."
  type        = string
}

variable "chef_client_name" {
  description = "Chef API client that the function signs as."
  type        = string
  default     = "ec2-decommission"
}

variable "consul_url" {
  description = "URL of a Consul agent or server."
  type        = string
}

variable "lock_prefixes" {
  description = "Consul key prefixes under which locks are held."
  type        = list(string)
  default     = ["locks/"]
}

variable "vault_address" {
  description = "URL of Vault; null uses VAULT_ADDR."
  type        = string
  default     = null
}

variable "secrets_path" {
  description = "Path in Vault's KV engine `secret` that contains `chef` (field `client_key`) and `consul` (field `token`)."
  type        = string
  default     = "ec2-decommission"
}

variable "subnet_ids" {
  description = "Subnets from which Chef, Consul and the AWS APIs are reachable."
  type        = list(string)
}

variable "security_group_ids" {
  description = "Security groups of the function."
  type        = list(string)
}

variable "alarm_actions" {
  description = "ARNs to notify when an alarm changes state, such as an SNS topic."
  type        = list(string)
  default     = []
}

variable "function" {
  description = "Settings of the Lambda function, as in the module."
  type = object({
    runtime      = optional(string)
    architecture = optional(string)
  })
  default = {}
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
}
