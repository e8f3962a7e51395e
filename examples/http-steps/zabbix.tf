# Deletes the Zabbix host that has the tag aws.instance_id with the instance's id.
#
# The token's user needs the role "Admin" and read-write permission to the host group. Zabbix hides hosts from users
# without permission, so try the step with dry_run first.
locals {
  # Before Zabbix 6.4, the token is in the body. Since 7.2, it is only in the header.
  zabbix_auth = var.zabbix_before_6_4 ? { auth = "{secret:token}" } : {}

  zabbix = {
    url     = var.zabbix_url
    headers = var.zabbix_before_6_4 ? {} : { Authorization = "Bearer {secret:token}" }
    secrets = { token = { path = "zabbix/decommission", field = "token" } }

    find = {
      method = "POST"
      body = jsonencode(merge(local.zabbix_auth, {
        jsonrpc = "2.0"
        id      = 1
        method  = "host.get"
        params = {
          output     = ["hostid", "host", "name"]
          selectTags = "extend"
          # Operator 1 is "equals". The default finds every value that contains the text.
          tags = [{ tag = "aws.instance_id", value = "{instance_id}", operator = 1 }]
        }
      }))
      items = "result"
      id    = "hostid"
      error = "error.data" # Zabbix answers errors with status 200
    }

    prove = { field = "tags[?tag=='aws.instance_id'].value | [0]", equals = "{instance_id}" }

    # A host with the tag "keep" is never touched, whatever its value.
    keep = ["tags[?tag=='keep']"]

    remove = {
      method = "POST"
      body = jsonencode(merge(local.zabbix_auth, {
        jsonrpc = "2.0"
        id      = 1
        method  = "host.delete"
        params  = ["{id}"]
      }))
      error = "error.data"
    }
  }
}
