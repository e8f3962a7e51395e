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
  description = "Report what would be removed, and remove nothing. Set it to false when the reports are what you expect."
  type        = bool
  default     = true
}

variable "adopt" {
  description = "Systems whose nodes may reveal instances that were terminated before the module was applied: chef, consul, or both."
  type        = list(string)
  default     = ["chef", "consul"]
}

variable "max_instances" {
  description = "Maximum number of instances that one sweep may decommission."
  type        = number
  default     = 50
}

variable "zone_ids" {
  description = "Hosted zones to remove records from, including reverse zones."
  type        = list(string)
}

variable "record_names" {
  description = "Templates of an instance's DNS names, zone included."
  type        = list(string)
  default     = ["{tag:Name}.example.internal", "{hostname}.example.internal"]
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

variable "function" {
  description = "Settings of the Lambda function, as in the module."
  type = object({
    runtime      = optional(string)
    architecture = optional(string)
  })
  default = {}
}
