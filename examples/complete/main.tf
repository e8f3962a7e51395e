provider "aws" {
  region = var.region

  default_tags {
    tags = { Service = var.name }
  }
}

module "ec2_decommission" {
  source = "../../"

  name    = var.name
  dry_run = var.dry_run

  # Instances with this tag are left alone.
  instance_filter = {
    exclude_tags = { Decommission = ["never"] }
  }

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
    node_name       = "{hostname}"
    lock_prefixes   = var.lock_prefixes
    deregister_node = true
  }

  # The build reads these secrets with VAULT_TOKEN, and seals them with a key that the module creates.
  vault = { address = var.vault_address }
  secrets = {
    chef_client_key = { path = "${var.secrets_path}/chef", field = "client_key" }
    consul_token    = { path = "${var.secrets_path}/consul", field = "token" }
  }

  # Chef and Consul are reachable only from within the VPC.
  vpc_config = {
    subnet_ids         = var.subnet_ids
    security_group_ids = var.security_group_ids
  }

  function  = var.function
  log_group = { retention_in_days = 90 }

  alarms = {
    enabled = true
    actions = var.alarm_actions
  }

  dashboard = { enabled = true }

  tags = var.tags
}
