# Everything that can be off is off: a stack that stands there and harms nobody.
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100"
    }
  }
}

provider "aws" {}

variable "architecture" {
  type = string
}

variable "step" {
  description = "Directory of a custom step, which is off too."
  type        = string
}

module "ec2_decommission" {
  source = "../../../../"

  name = "nothing-on"

  route53   = { enabled = false, zone_ids = ["Z0123456789ABCDEFGHIJ"], record_names = ["{tag:Name}.example.internal"] }
  chef      = { enabled = false, server_url = "https://chef.invalid", client_name = "c" }
  consul    = { enabled = false, url = "https://consul.invalid" }
  inventory = { enabled = false }
  sweep     = { enabled = false }
  alarms    = { enabled = false }
  dashboard = { enabled = false }

  custom_steps = {
    off = {
      enabled        = false
      source_dir     = var.step
      secrets        = { token = { path = "nowhere" } }
      iam_statements = [{ actions = ["cloudwatch:DeleteAlarms"], resources = ["*"] }]
    }
  }

  function = { architecture = var.architecture }
}

output "effective_config" {
  value = module.ec2_decommission.effective_config
}

output "function_name" {
  value = module.ec2_decommission.function_name
}

output "kms_key_arn" {
  value = module.ec2_decommission.kms_key_arn
}
