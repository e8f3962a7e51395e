# The demo's deployment: all built-in steps, the audit, and one member account.

variable "region" { type = string }
variable "member_account_id" { type = string }
variable "zone_ids" { type = list(string) }
variable "chef_server_url" { type = string }
variable "chef_client_name" { type = string }
variable "consul_url" { type = string }
variable "vault_address" { type = string }
variable "audit_bucket" { type = string }
variable "function" { type = object({ runtime = string, architecture = string }) }

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100"
    }
  }
}

provider "aws" {
  region = var.region
}

provider "aws" {
  alias  = "member"
  region = var.region

  assume_role {
    role_arn = "arn:aws:iam::${var.member_account_id}:role/OrganizationAccountAccessRole"
  }
}

module "ec2_decommission" {
  source = "../../"

  route53 = {
    enabled      = true
    zone_ids     = var.zone_ids
    record_names = ["{tag:Name}.example.internal"]
  }

  chef = {
    enabled     = true
    server_url  = var.chef_server_url
    client_name = var.chef_client_name
    node_name   = "{tag:Name}"
  }

  consul = {
    enabled         = true
    url             = var.consul_url
    node_name       = "{tag:Name}"
    lock_prefixes   = ["locks/"]
    deregister_node = true
  }

  vault = { address = var.vault_address }
  secrets = {
    chef_client_key = { path = "ec2-decommission/chef", field = "client_key" }
    consul_token    = { path = "ec2-decommission/consul", field = "token" }
  }

  organization = { members = { (var.member_account_id) = {} } }
  audit        = { bucket = var.audit_bucket }
  function     = var.function
}

module "member" {
  source = "../../modules/member"

  providers = { aws = aws.member }

  event_bus_arn     = module.ec2_decommission.event_bus_arn
  function_role_arn = module.ec2_decommission.role_arn
}
