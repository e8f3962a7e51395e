# Tailscale: for machines that join with `tailscale up --hostname=<instance id>`. The OAuth client needs the scope
# `devices:core`.

locals {
  tailscale = {
    url     = "https://api.tailscale.com"
    secrets = { client_secret = { path = "tailscale/decommission", field = "client_secret" } }
    auth = {
      oauth2 = {
        token_url     = "https://api.tailscale.com/api/v2/oauth/token"
        client_id     = "kABCDEF1CNTRL"
        client_secret = "client_secret"
      }
    }
    find   = { path = "/api/v2/tailnet/-/devices", items = "devices", id = "nodeId" }
    prove  = { field = "hostname", equals = "{instance_id}" }
    remove = { path = "/api/v2/device/{id}", gone = [404] }
  }
}
