# Datadog: mutes the host's alerts. Datadog has no call that deletes a host; it forgets hosts that stop reporting.

locals {
  datadog = {
    url     = "https://api.datadoghq.com"
    headers = { DD-API-KEY = "{secret:api_key}", DD-APPLICATION-KEY = "{secret:application_key}" }
    secrets = {
      api_key         = { path = "datadog/decommission", field = "api_key" }
      application_key = { path = "datadog/decommission", field = "application_key" }
    }
    find = {
      path  = "/api/v1/hosts"
      query = { filter = "{instance_id}", count = "1000" }
      items = "host_list"
      id    = "host_name"
    }
    prove = { field = "aliases[?starts_with(@, 'i-')] | [0]", equals = "{instance_id}" }
    keep  = ["is_muted"]
    remove = {
      method = "POST"
      path   = "/api/v1/host/{id}/mute"
      body   = jsonencode({ message = "The EC2 instance {instance_id} was terminated." })
    }
  }
}
