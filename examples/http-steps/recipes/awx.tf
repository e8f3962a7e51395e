# AWX: deletes the host from all inventories. A host that a running job uses answers 409, and the step retries.

locals {
  awx = {
    url     = "https://awx.example.com"
    headers = { Authorization = "Bearer {secret:token}" }
    secrets = { token = { path = "awx/decommission", field = "token" } }
    find = {
      path  = "/api/v2/hosts/"
      query = { instance_id = "{instance_id}" }
      items = "results"
      id    = "id"
      next  = "next"
    }
    prove  = { field = "instance_id", equals = "{instance_id}" }
    remove = { path = "/api/v2/hosts/{id}/", gone = [404] }
  }
}
