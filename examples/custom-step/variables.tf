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

variable "alarm_name_prefix" {
  description = "Prefix of the names of alarms that belong to one instance. The step ignores other alarms."
  type        = string
  default     = "host-"
  nullable    = false

  validation {
    condition     = var.alarm_name_prefix != ""
    error_message = "alarm_name_prefix is empty: the function would be allowed to delete every alarm in the region."
  }
}

variable "function" {
  description = "Settings of the Lambda function, as in the module."
  type = object({
    runtime      = optional(string)
    architecture = optional(string)
  })
  default = {}
}
