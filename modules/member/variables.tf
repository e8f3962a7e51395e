variable "event_bus_arn" {
  description = "ARN of the deployment's event bus: its output `event_bus_arn`."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[^:]+:events:[a-z0-9-]+:[0-9]{12}:event-bus/.+$", var.event_bus_arn))
    error_message = "event_bus_arn is ${jsonencode(var.event_bus_arn)}: it must be the ARN of an event bus, the output event_bus_arn of the deployment."
  }
}

variable "function_role_arn" {
  description = "ARN of the role of the deployment's function: its output `role_arn`. The role must exist before this module is applied, because IAM checks it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[^:]+:iam::[0-9]{12}:role/.+$", var.function_role_arn))
    error_message = "function_role_arn is ${jsonencode(var.function_role_arn)}: it must be the ARN of a role, the output role_arn of the deployment."
  }
}

variable "external_id" {
  description = "External id that the function must pass when it assumes the reader role: `organization.external_id` of the deployment. `null` requires none."
  type        = string
  default     = null

  validation {
    condition     = var.external_id == null || can(regex("^[A-Za-z0-9_+=,.@:/-]{2,}$", var.external_id)) && length(coalesce(var.external_id, "x")) <= 1224
    error_message = "external_id must have 2 to 1224 letters, digits and any of _ + = , . @ : / -."
  }
}

variable "role_name" {
  description = "Name of the reader role, and prefix of the other names: `organization.role_name` of the deployment. Use a different name for each deployment that serves this account."
  type        = string
  default     = "ec2-decommission-member"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,48}$", var.role_name))
    error_message = "role_name is ${jsonencode(var.role_name)}: it must have 1 to 48 letters, digits, hyphens and underscores, because the names of the queue, the rule and the roles start with it."
  }
}

variable "create_role" {
  description = "Create the reader role. Set it to `false` in further regions of an account, where the role already exists, and in the function's own account, which needs no role."
  type        = bool
  default     = true
  nullable    = false
}

variable "permissions_boundary_arn" {
  description = "ARN of the permissions boundary of both roles. `null` sets none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null || can(regex("^arn:[^:]+:iam::([0-9]{12}|aws):policy/.+$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn is ${jsonencode(var.permissions_boundary_arn)}: it must be the ARN of a policy, such as \"arn:aws:iam::123456789012:policy/boundary\"."
  }
}

variable "tags" {
  description = "Tags of all resources that can have tags."
  type        = map(string)
  default     = {}
  nullable    = false
}
