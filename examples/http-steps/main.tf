provider "aws" {
  region = var.region
}

module "ec2_decommission" {
  source = "../../"

  name    = var.name
  dry_run = var.dry_run

  # The keys are the names of the steps in every report.
  http_steps = {
    zabbix = local.zabbix # zabbix.tf
    icinga = local.icinga # icinga.tf
  }

  function   = var.function
  vault      = var.vault
  package    = { ca_bundle_file = var.ca_bundle_file }
  vpc_config = var.vpc_config
}
