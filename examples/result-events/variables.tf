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
  description = "Report what would be removed, remove nothing, and send no event."
  type        = bool
  default     = false
}

variable "zone_ids" {
  description = "Hosted zones to remove records from."
  type        = list(string)
}

variable "record_names" {
  description = "Templates of an instance's DNS names, zone included."
  type        = list(string)
  default     = ["{tag:Name}.example.internal"]
}

variable "email_addresses" {
  description = "Addresses that get an email about each failure. Each address must confirm its subscription."
  type        = list(string)
  default     = []
}

variable "slack" {
  description = "Ids of the Slack workspace and channel. Authorize the workspace in the console first."
  type = object({
    team_id    = string
    channel_id = string
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
