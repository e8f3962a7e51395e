# Warnings about likely mistakes. All are known at plan, so a healthy first plan has none.

check "something_is_enabled" {
  assert {
    condition     = length(local.steps) > 0
    error_message = "No step is enabled, so ${var.name} removes nothing. Set route53.enabled, chef.enabled or consul.enabled to true, or declare http_steps or custom_steps."
  }
}

# Terraform drops attributes that it does not know, such as a misspelt "enable".
check "what_is_configured_is_enabled" {
  assert {
    condition     = length(local.configured_and_not_enabled) == 0
    error_message = "Configured but not enabled: ${join(", ", local.configured_and_not_enabled)}. Set enabled to true, or to false to confirm that it is off. Terraform ignores attributes that it does not know, so look for a misspelling too (such as enable for enabled)."
  }
}

check "private_servers_are_reachable" {
  assert {
    condition     = var.vpc_config != null ? true : length(local.private_urls) == 0
    error_message = "The function runs outside a VPC and cannot reach a private address: ${join(", ", local.private_urls)}. Set vpc_config to subnets from which it can be reached."
  }
}

check "addresses_are_recorded" {
  assert {
    condition     = !local.route53_on || var.inventory.enabled
    error_message = "Route 53 is enabled without the inventory, so the addresses of instances are not recorded, and most DNS records cannot be proven to be an instance's. Set inventory.enabled to true."
  }
}

# Lambda reports a code update as done even if it failed, and the next plan would say "No changes".
check "deployed_code" {
  assert {
    condition     = local.deployed_now ? true : local.expected_code_sha256 == null ? true : aws_lambda_function.this.code_sha256 == local.expected_code_sha256
    error_message = "The function ${var.name} does not run the code that was last deployed by Terraform: an update failed, or somebody else deployed. Deploy again with: terraform apply -replace='<address of this module>.${local.build ? "terraform_data.package[0]" : "aws_lambda_function.this"}' (or change package.rebuild)."
  }
}

locals {
  # An explicit false is a decision; without `enabled`, other attributes show that the input was meant to be on.
  configured = {
    route53       = var.route53.enabled != null ? false : length(var.route53.zone_ids) + length(var.route53.zones) + length(var.route53.record_names) > 0
    chef          = var.chef.enabled != null ? false : var.chef.server_url != null || var.chef.client_name != null || var.chef.node_name != null
    consul        = var.consul.enabled != null ? false : var.consul.url != null || var.consul.node_name != null || length(var.consul.lock_prefixes) > 0
    alarms        = var.alarms.enabled != null ? false : length(var.alarms.actions) > 0
    result_events = var.result_events.enabled != null ? false : var.result_events.event_bus_name != "default"
  }
  configured_and_not_enabled = [for input, configured in local.configured : input if configured]

  urls = compact(concat(
    local.chef_on ? [var.chef.server_url] : [],
    local.consul_on ? [var.consul.url] : [],
    [for step in values(local.http_steps) : step.url],
    [for step in values(local.http_steps) : try(step.auth.oauth2.token_url, null)],
  ))
  private_urls = distinct([for url in local.urls : url if can(regex(local.private_host_pattern, lower(url))) && !can(regex("^https?://localhost(:|/|$)", lower(url)))])
}
