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

variable "zabbix_url" {
  description = "URL of Zabbix's API."
  type        = string
  default     = "https://zabbix.example.com/api_jsonrpc.php"
}

variable "zabbix_before_6_4" {
  description = "Send the token in the body, as Zabbix before 6.4 expects it."
  type        = bool
  default     = false
}

variable "icinga_url" {
  description = "URL of Icinga's API."
  type        = string
  default     = "https://icinga.example.com:5665"
}

variable "ca_bundle_file" {
  description = "PEM file of the authorities that signed the servers' certificates, in addition to the public ones."
  type        = string
  default     = null
}

variable "vault" {
  description = "Where and how the build reads the secrets, as in the module."
  type        = any
  default     = {}
}

variable "vpc_config" {
  description = "VPC from which the servers are reachable, as in the module."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null
}

variable "function" {
  description = "Settings of the Lambda function, as in the module."
  type = object({
    runtime      = optional(string)
    architecture = optional(string)
  })
  default = {}
}
