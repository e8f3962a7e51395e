# The deployment whose dashboard scripts/draw-dashboard draws. `terraform test` prints its state; nothing is created.

mock_provider "aws" {
  source = "./mocks"
}

run "dashboard" {
  variables {
    package     = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }
    dashboard   = { enabled = true }
    alarms      = { enabled = true }
    route53     = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    chef        = { enabled = true, server_url = "https://chef.example.com/organizations/acme", client_name = "ec2-decommission" }
    consul      = { enabled = true, url = "https://consul.example.com" }
    secrets     = { chef_client_key = { path = "chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }
}
