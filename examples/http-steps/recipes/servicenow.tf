# ServiceNow: retires the configuration item that cloud discovery created. `7` is "Retired" in the default choices of
# `install_status`.

locals {
  servicenow = {
    url  = "https://example.service-now.com"
    auth = { basic = { username = "username", password = "password" } }
    secrets = {
      username = { path = "servicenow/decommission", field = "username" }
      password = { path = "servicenow/decommission", field = "password" }
    }
    find = {
      path = "/api/now/v2/table/cmdb_ci_vm_instance"
      query = {
        sysparm_query  = "object_id={instance_id}"
        sysparm_fields = "sys_id,name,object_id,install_status"
      }
      items = "result"
      id    = "sys_id"
    }
    prove = { field = "object_id", equals = "{instance_id}" }
    keep  = ["install_status == '7'"]
    remove = {
      method = "PATCH"
      path   = "/api/now/v2/table/cmdb_ci_vm_instance/{id}"
      body   = jsonencode({ install_status = "7" })
      gone   = [404]
    }
  }
}
