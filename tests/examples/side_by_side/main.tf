# Two calls of the module in one root module, by for_each, built at the same time: neither may disturb the other. One of
# them has a custom step with its own secret and dependency.
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

variable "calls" {
  description = "Calls by name: the zone to clean, and the address of Vault if the custom step is on."
  type = map(object({
    zone_id       = string
    vault_address = optional(string)
  }))
}

variable "architecture" {
  type = string
}

module "ec2_decommission" {
  source   = "../../../"
  for_each = var.calls

  name = each.key

  route53 = {
    enabled      = true
    zone_ids     = [each.value.zone_id]
    record_names = ["{tag:Name}.${each.key}.internal"]
  }

  vault = { address = each.value.vault_address }

  custom_steps = {
    vault_entries = {
      enabled           = each.value.vault_address != null
      source_dir        = "${path.module}/vault_entries"
      requirements_file = "${path.module}/requirements.txt"
      settings          = each.value.vault_address == null ? {} : { address = each.value.vault_address }
      secrets           = { token = { path = "ec2-decommission/vault-entries", field = "token" } }
    }
  }

  function = { architecture = var.architecture }
}

output "function_names" {
  value = { for name, one in module.ec2_decommission : name => one.function_name }
}
