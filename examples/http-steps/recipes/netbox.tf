# NetBox: sets the status of the virtual machine to "decommissioning". Needs a text custom field `instance_id`. To
# delete it, leave out `method` and `body`. If `next` has another scheme than `url`, correct the proxy's
# `X-Forwarded-Proto`.

locals {
  netbox = {
    url     = "https://netbox.example.com"
    headers = { Authorization = "Token {secret:token}" }
    secrets = { token = { path = "netbox/decommission", field = "token" } }
    find = {
      path  = "/api/virtualization/virtual-machines/"
      query = { cf_instance_id = "{instance_id}" }
      items = "results"
      id    = "id"
      next  = "next"
    }
    prove = { field = "custom_fields.instance_id", equals = "{instance_id}" }
    keep  = ["status.value == 'decommissioning'"]
    remove = {
      method = "PATCH"
      path   = "/api/virtualization/virtual-machines/{id}/"
      body   = jsonencode({ status = "decommissioning" })
      gone   = [404]
    }
  }
}
