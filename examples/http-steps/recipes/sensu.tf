# Sensu Go: for entities with a label `instance_id`. The answer contains all entities of the namespace. In the
# commercial distribution, add `query = { labelSelector = "instance_id == \"{instance_id}\"" }` to find.

locals {
  sensu = {
    url     = "https://sensu.example.com:8080"
    headers = { Authorization = "Key {secret:api_key}" }
    secrets = { api_key = { path = "sensu/decommission", field = "api_key" } }
    find    = { path = "/api/core/v2/namespaces/default/entities", items = "@", id = "metadata.name" }
    prove   = { field = "metadata.labels.instance_id", equals = "{instance_id}" }
    remove  = { path = "/api/core/v2/namespaces/default/entities/{id}", gone = [404] }
  }
}
