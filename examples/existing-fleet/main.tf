provider "aws" {
  region = var.region
}

module "ec2_decommission" {
  source = "../../"

  name = var.name

  # While this is true, nothing is removed. Every report lists the planned removals.
  dry_run = var.dry_run

  route53 = {
    enabled      = true
    zone_ids     = var.zone_ids
    record_names = var.record_names
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
    lock_prefixes   = ["locks/"]
    deregister_node = true
  }

  sweep = {
    # Instances that were terminated before the installation are not in the inventory, but Chef and Consul still have
    # their nodes. List a system only if all its nodes are in this account and region or carry their account and region.
    adopt = var.adopt
    # The brake: the maximum number of instances per sweep. Above it, the sweep fails and removes nothing.
    max_instances = var.max_instances
    max_fraction  = 1
  }

  vault = { address = var.vault_address }
  secrets = {
    chef_client_key = { path = "${var.secrets_path}/chef", field = "client_key" }
    consul_token    = { path = "${var.secrets_path}/consul", field = "token" }
  }

  function = var.function
}
