# The job that applies this needs no Python, Vault or package index, because another job builds the zip.

provider "aws" {
  region = var.region
}

module "ec2_decommission" {
  source = "../../"

  name    = var.name
  dry_run = var.dry_run

  package = {
    type     = "prebuilt"
    zip_file = var.zip_file
    # The zip was built for this deployment, and contains its sealed secrets.
    bundle_included = true
  }

  # Use the same key and the same secret names as in package.json.
  kms_key_arn = var.kms_key_arn
  secrets     = { consul_token = { path = "ec2-decommission/consul", field = "token" } }

  route53 = {
    enabled      = true
    zone_ids     = var.zone_ids
    record_names = var.record_names
  }

  consul = {
    enabled       = true
    url           = var.consul_url
    lock_prefixes = ["locks/"]
  }

  function = { runtime = "python3.13", architecture = var.architecture }
}
