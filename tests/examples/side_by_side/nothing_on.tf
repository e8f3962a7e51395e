# A third call, in which everything that can be off is off. It must do no harm.
module "nothing_on" {
  source = "../../../"

  name = "nothing-on"

  route53   = { enabled = false, zone_ids = ["Z0123456789ABCDEFGHIJ"], record_names = ["{tag:Name}.example.internal"] }
  chef      = { enabled = false, server_url = "https://chef.invalid", client_name = "c" }
  consul    = { enabled = false, url = "https://consul.invalid" }
  inventory = { enabled = false }
  sweep     = { enabled = false }
  alarms    = { enabled = false }
  dashboard = { enabled = false }

  custom_steps = {
    vault_entries = {
      enabled        = false
      source_dir     = "${path.module}/vault_entries"
      secrets        = { token = { path = "nowhere" } }
      iam_statements = [{ actions = ["cloudwatch:DeleteAlarms"], resources = ["*"] }]
    }
  }

  function = { architecture = var.architecture }
}

output "nothing_on" {
  value = module.nothing_on
}
