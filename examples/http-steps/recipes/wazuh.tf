# Wazuh: for agents that register with the instance id as their name. Wazuh's tokens expire, by default after 15
# minutes, and the step cannot log in to `/security/user/authenticate`. Raise `auth_token_exp_timeout`, and build the
# package again before a token expires. Use a user with only the permissions `agent:read` and `agent:delete`.

locals {
  wazuh = {
    url     = "https://wazuh.example.com:55000"
    headers = { Authorization = "Bearer {secret:token}" }
    secrets = { token = { path = "wazuh/decommission", field = "token" } }
    find = {
      path  = "/agents"
      query = { name = "{instance_id}", limit = "500" }
      items = "data.affected_items"
      id    = "id"
      error = "error != `0` && message"
    }
    prove = { field = "name", equals = "{instance_id}" }
    keep  = ["id == '000'"] # the manager itself
    remove = {
      path  = "/agents"
      query = { agents_list = "{id}", status = "all", older_than = "0s" }
      error = "data.failed_items[0].error.message || (error != `0` && message)"
    }
  }
}
