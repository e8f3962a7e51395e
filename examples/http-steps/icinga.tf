# Deletes the Icinga 2 host whose custom variable instance_id is the instance's id, with its services.
#
# The API user needs the permissions objects/query/Host and objects/delete/Host. If a permission is missing, Icinga
# answers 404, as for a missing host. The step reports this as a missing permission.
locals {
  icinga = {
    url  = var.icinga_url
    auth = { basic = { username = "username", password = "password" } } # names of the secrets
    secrets = {
      username = { path = "icinga/decommission", field = "username" }
      password = { path = "icinga/decommission", field = "password" }
    }

    find = {
      method  = "POST"
      path    = "/v1/objects/hosts"
      headers = { X-HTTP-Method-Override = "GET" }
      # filter_vars separates the value from the filter, so that Icinga never parses the value as part of the filter.
      body = jsonencode({
        filter      = "host.vars.instance_id == id"
        filter_vars = { id = "{instance_id}" }
        attrs       = ["name", "vars"]
      })
      items = "results"
      id    = "name"
    }

    prove = { field = "attrs.vars.instance_id", equals = "{instance_id}" }

    remove = {
      method  = "POST"
      path    = "/v1/objects/hosts"
      headers = { X-HTTP-Method-Override = "DELETE" }
      # Compares and deletes in one request, so that a host with this name and another id stays.
      body = jsonencode({
        filter      = "host.name == name && host.vars.instance_id == id"
        filter_vars = { name = "{id}", id = "{instance_id}" }
        cascade     = true
      })
      gone  = [404]
      error = "results == `[]` && 'no such host any more' || (results[?code != `200`].status | [0])"
    }
  }
}
