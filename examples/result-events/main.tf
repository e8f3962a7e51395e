provider "aws" {
  region = var.region
}

module "ec2_decommission" {
  source = "../../"

  name    = var.name
  dry_run = var.dry_run

  route53 = {
    enabled      = true
    zone_ids     = var.zone_ids
    record_names = var.record_names
  }

  result_events = { enabled = true }

  function = var.function
}
