# Warnings: one for each mistake, and none for valid input. A run fails on an unexpected warning.

mock_provider "aws" {
  source = "./mocks"
}

variables {
  package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip" }, code_sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" }
}

run "a_healthy_first_plan_of_everything_has_no_warning" {
  command = plan

  variables {
    route53       = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    chef          = { enabled = true, server_url = "https://chef.example.internal", client_name = "c" }
    consul        = { enabled = true, url = "https://10.0.0.5:8501" }
    secrets       = { chef_client_key = { path = "chef" }, consul_token = { path = "consul" } }
    vpc_config    = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
    organization  = { members = { "222222222222" = {} } }
    alarms        = { enabled = true, actions = ["arn:aws:sns:eu-west-1:123456789012:t"] }
    dashboard     = { enabled = true }
    result_events = { enabled = true, event_bus_name = "results" }
    audit         = { bucket = "audit" }
    package       = {}
  }
}

run "a_healthy_first_plan_of_the_smallest_has_no_warning" {
  command = plan

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    package = {}
  }
}

run "a_first_apply_of_a_zip_from_elsewhere_has_no_warning" {
  variables {
    chef   = { enabled = false, server_url = "https://chef.example.internal", client_name = "c" }
    consul = { enabled = true, url = "https://consul.example.com" }
  }
}

run "nothing_enabled_is_told" {
  command         = plan
  expect_failures = [check.something_is_enabled]
}

run "a_misspelt_enabled_is_told_of_every_step" {
  command = plan

  variables {
    route53       = { enable = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    chef          = { Enabled = true, server_url = "https://chef.example.com", client_name = "c" }
    consul        = { url = "https://consul.example.com" }
    alarms        = { actions = ["arn:aws:sns:eu-west-1:123456789012:t"] }
    result_events = { event_bus_name = "results" }
  }

  expect_failures = [check.something_is_enabled, check.what_is_configured_is_enabled]

  assert {
    condition     = local.configured_and_not_enabled == ["alarms", "chef", "consul", "result_events", "route53"]
    error_message = jsonencode(local.configured_and_not_enabled)
  }
}

run "a_private_server_without_a_vpc_is_told" {
  command = plan

  variables {
    consul = { enabled = true, url = "https://consul.example.internal:8501" }
    chef   = { enabled = false, server_url = "https://10.0.0.9", client_name = "c" }
    http_steps = {
      a = { url = "https://192.168.0.4/api", find = { items = "@", id = "id" }, prove = { field = "i", equals = "{instance_id}" }, remove = { path = "/{id}" } }
      b = { url = "https://172.20.1.1:8080", find = { items = "@", id = "id" }, prove = { field = "i", equals = "{instance_id}" }, remove = { path = "/{id}" } }
      c = { url = "http://zabbix", find = { items = "@", id = "id" }, prove = { field = "i", equals = "{instance_id}" }, remove = { path = "/{id}" } }
      d = { url = "https://172.200.1.1", find = { items = "@", id = "id" }, prove = { field = "i", equals = "{instance_id}" }, remove = { path = "/{id}" } }
      e = { url = "https://internal.example.com", find = { items = "@", id = "id" }, prove = { field = "i", equals = "{instance_id}" }, remove = { path = "/{id}" } }
    }
  }

  expect_failures = [check.private_servers_are_reachable]

  assert {
    condition     = local.private_urls == tolist(["https://consul.example.internal:8501", "https://192.168.0.4/api", "https://172.20.1.1:8080", "http://zabbix"])
    error_message = jsonencode(local.private_urls)
  }
}

run "route53_without_the_inventory_is_told" {
  command = plan

  variables {
    route53   = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    inventory = { enabled = false }
  }

  expect_failures = [check.addresses_are_recorded]
}
