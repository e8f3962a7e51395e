# The inventory records the addresses, names and tags of each instance. EC2 forgets them within an hour of its end.

resource "aws_dynamodb_table" "inventory" {
  #checkov:skip=CKV_AWS_119:The table contains addresses and tags that EC2 shows anyway; a key is the user's choice (inventory.kms_key_arn)

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
    name = "sweep"
    type = "S"
  }

  # A sparse index: only instances that a sweep must check have this attribute.
  global_secondary_index {
    name = "sweep"
    # Provider 6 deprecates hash_key and range_key here, in favor of key_schema, which 5.100 does not have.
    hash_key        = "sweep"
    range_key       = "instance_id"
    projection_type = "ALL"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  server_side_encryption {
    enabled     = true
    kms_key_arn = var.inventory.kms_key_arn
  }

  point_in_time_recovery {
    enabled = true
  }

  tags = var.tags
}
