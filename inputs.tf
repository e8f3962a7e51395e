# Values that depend only on the inputs. Validations in variables.tf use them too.

locals {
  name_placeholders      = "instance_id|tag:[^{}]{1,128}|private_ip|private_ip_dashed|private_dns_name|hostname|account_id|region"
  name_placeholders_list = "{instance_id}, {tag:KEY}, {private_ip}, {private_ip_dashed}, {private_dns_name}, {hostname}, {account_id}, {region}"
  # A name without any of these is the same for every instance.
  distinct_placeholders = "\\{(instance_id|tag:[^{}]*|private_ip|private_ip_dashed|private_dns_name|hostname)\\}"

  # Scheme, host, optional port and path. No user, query, fragment, space or brace, so that no template decides where a request goes.
  url_pattern = "^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/[^?#@{}[:space:]]*)?$"
  # A message must not repeat a password.
  password_in_url = "/\\/\\/[^\\/]*@/"
  # Hosts that are usually reachable only from inside a network. Not loopback, because no setting makes it reachable.
  private_host_pattern = "^https?://(10\\.[0-9.]+|172\\.(1[6-9]|2[0-9]|3[01])\\.[0-9.]+|192\\.168\\.[0-9.]+|[^/:.]+|[^/:]+\\.(internal|local|lan|corp|intranet|private|consul))(:|/|$)"

  account_id_pattern = "^[0-9]{12}$"
  region_pattern     = "^[a-z]{2,}(-[a-z]+)+-[0-9]+$"
  role_arn_pattern   = "^arn:[^:]+:iam::[0-9]{12}:role/.+$"
  key_arn_pattern    = "^arn:[^:]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$"

  # `enabled` is null if the caller does not set it. checks.tf warns about a step that is configured but not enabled.
  route53_on       = var.route53.enabled == true
  chef_on          = var.chef.enabled == true
  consul_on        = var.consul.enabled == true
  alarms_on        = var.alarms.enabled == true
  result_events_on = var.result_events.enabled == true
  sweep_on         = var.sweep.enabled && var.inventory.enabled

  custom_steps = { for name, step in var.custom_steps : name => step if step.enabled }
  http_steps   = { for name, step in var.http_steps : name => step if step.enabled }

  # The steps that run, in order.
  module_steps = compact([local.route53_on ? "route53" : "", local.chef_on ? "chef" : "", local.consul_on ? "consul" : ""])
  steps        = concat(local.module_steps, sort(keys(local.http_steps)), sort(keys(local.custom_steps)))

  # For zones without a role, the function uses its own permissions.
  zones = concat([for id in var.route53.zone_ids : { id = id, role_arn = null, external_id = null }], var.route53.zones)

  # References to secrets, by their names in the bundle: no step gets another step's secrets.
  secrets = merge(var.secrets, concat(
    [for step_name, step in local.custom_steps : { for name, secret in step.secrets : "custom_steps.${step_name}.${name}" => secret }],
    [for step_name, step in local.http_steps : { for name, secret in step.secrets : "http_steps.${step_name}.${name}" => secret }],
  )...)
  has_secrets = length(local.secrets) > 0

  # Lambda's environment is limited to 4 KB. Settings that can be larger are in settings.json in the package.
  has_settings = var.organization != null || length(local.http_steps) > 0
}
