# The inventory remembers what each instance was: EC2 forgets it within the hour.

resource "aws_dynamodb_table" "inventory" {
  #checkov:skip=CKV_AWS_119:The table holds addresses and tags that EC2 shows anyway; the AWS-managed key encrypts it

  count = var.inventory.enabled ? 1 : 0

  name         = local.inventory_table_name
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "instance_id"

  deletion_protection_enabled = var.inventory.deletion_protection

  attribute {
    name = "instance_id"
    type = "S"
  }

  attribute {
    name = "living"
    type = "S"
  }

  # Sparse: only what lives bears the attribute, so the sweep reads no more than it must.
  global_secondary_index {
    name            = "living"
    hash_key        = "living"
    range_key       = "instance_id"
    projection_type = "ALL"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  server_side_encryption {
    enabled = true
  }

  point_in_time_recovery {
    enabled = true
  }

  tags = var.tags
}
