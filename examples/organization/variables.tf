variable "region" {
  description = "Region of the hub and of the instances."
  type        = string
  default     = "eu-west-1"
}

variable "name" {
  description = "Prefix of the names of the hub's resources."
  type        = string
  default     = "ec2-decommission"
}

variable "dry_run" {
  description = "Report what would be removed, and remove nothing."
  type        = bool
  default     = false
}

variable "member_a_account_id" {
  description = "Account id of the first member."
  type        = string
}

variable "member_b_account_id" {
  description = "Account id of the second member."
  type        = string
}

variable "dns_account_id" {
  description = "Id of the account that owns the hosted zone."
  type        = string
}

variable "terraform_role_name" {
  description = "Name of the role that Terraform assumes in the members and in the zone's account."
  type        = string
  default     = "OrganizationAccountAccessRole"
}

variable "external_id" {
  description = "External id that the function passes when it assumes a role."
  type        = string
  default     = "ec2-decommission"
}

variable "zone_id" {
  description = "Hosted zone to remove records from."
  type        = string
}

variable "record_names" {
  description = "Templates of an instance's DNS names, zone included."
  type        = list(string)
  default     = ["{tag:Name}.example.internal"]
}

variable "function" {
  description = "Settings of the Lambda function, as in the module."
  type = object({
    runtime      = optional(string)
    architecture = optional(string)
  })
  default = {}
}
