# The module call for test_module_config.py.
mock_provider "aws" {
  source = "./mocks"
}

# Nothing is built, so another file stands in for the zip.
override_resource {
  target = terraform_data.bundle
  values = { output = { zip = "LICENSE" } }
}

run "everything_on" {
  variables {
    package         = { type = "s3", s3 = { bucket = "b", key = "k", object_version = "1" }, python = "true", ca_bundle_file = "LICENSE" }
    instance_filter = { exclude_tags = { Keep = ["yes"] } }
    organization    = { members = { "222222222222" = {}, "123456789012" = { regions = ["us-east-1"] } }, external_id = "shared" }
    audit           = { bucket = "audit" }
    result_events   = { enabled = true }
    route53 = {
      enabled      = true
      zone_ids     = ["Z1"]
      zones        = [{ id = "Z2", role_arn = "arn:aws:iam::333333333333:role/dns", external_id = "x-1" }]
      record_names = ["{tag:Name}.example.internal"]
      keep_names   = ["db.*"]
      external_dns = { txt_prefix = "%%{record_type}-xdns." }
    }
    chef         = { enabled = true, server_url = "https://chef.example.com", client_name = "c", node_name = "{tag:Name}" }
    consul       = { enabled = true, url = "https://consul.example.com", node_name = "{hostname}" }
    secrets      = { chef_client_key = { path = "a" }, consul_client_certificate = { path = "b" }, consul_client_key = { path = "b" } }
    custom_steps = { mine = { source_dir = "lambda/src/ec2_decommission", settings = { a = "b" }, secrets = { token = { path = "c" } } } }
    http_steps = {
      Basic-1 = {
        url     = "https://a.example.com"
        headers = { X = "{secret:p}" }
        secrets = { u = { path = "x" }, p = { path = "x" } }
        auth    = { basic = { username = "u", password = "p" } }
        find    = { items = "@", id = "id", path = "/x/{instance_id}", next = "next", error = "error" }
        prove   = { field = "i", equals = "{instance_id}" }
        keep    = ["protected"]
        remove  = { path = "/{id}", query = { k = "{item:name}" }, gone = [404] }
      }
      oauth2 = {
        url     = "https://b.example.com/api"
        secrets = { p = { path = "x" } }
        auth    = { oauth2 = { token_url = "https://login.example.com/t", client_id = "c", client_secret = "p", scope = "s" } }
        find    = { method = "POST", body = "{\"a\": \"{tag:Name}\"}", items = "@", id = "id" }
        prove   = { field = "i", equals = "{private_ip}" }
        remove  = { method = "POST", path = "/{id}", body = "{\"a\": \"{id}\"}" }
      }
    }
  }

  assert {
    condition     = local.region == "nowhere" # this run exists for the message
    error_message = "<<<${jsonencode({ config = local.config, settings = local.settings, bundle = local.build_specs.bundle, package = local.build_specs.package })}>>>"
  }
}
