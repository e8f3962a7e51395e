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

variable "zip_file" {
  description = "Path of the package that the other job built."
  type        = string
  default     = "package.zip"
}

variable "kms_key_arn" {
  description = "ARN of the key that the package was sealed with. It must exist before either job runs."
  type        = string
}

variable "architecture" {
  description = "Processor that the package was built for."
  type        = string
  default     = "arm64"
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

variable "consul_url" {
  description = "URL of a Consul agent or server."
  type        = string
}
