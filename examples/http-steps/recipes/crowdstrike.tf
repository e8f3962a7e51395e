# CrowdStrike Falcon: hides the host. The API client needs the scopes "Hosts: read" and "Hosts: write". The host of
# `url` and `token_url` depends on your cloud region.

locals {
  crowdstrike = {
    url     = "https://api.crowdstrike.com"
    secrets = { client_secret = { path = "crowdstrike/decommission", field = "client_secret" } }
    auth = {
      oauth2 = {
        token_url     = "https://api.crowdstrike.com/oauth2/token"
        client_id     = "0123456789abcdef0123456789abcdef"
        client_secret = "client_secret"
      }
    }
    find = {
      path  = "/devices/combined/devices/v1"
      query = { filter = "instance_id:'{instance_id}'" }
      items = "resources"
      id    = "device_id"
      error = "errors[0].message"
    }
    prove = { field = "instance_id", equals = "{instance_id}" }
    remove = {
      method = "POST"
      path   = "/devices/entities/devices-actions/v2"
      query  = { action_name = "hide_host" }
      body   = jsonencode({ ids = ["{id}"] })
      error  = "errors[0].message"
    }
  }
}
