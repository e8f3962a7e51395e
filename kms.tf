# The key that seals the secrets: created only if there are secrets and no key is given.

resource "aws_kms_key" "secrets" {
  count = local.create_kms_key ? 1 : 0

  description             = "Seals the secrets of ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30

  # The account's IAM policies decide who can encrypt (the build) and decrypt (the function).
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AccountAdministersTheKey"
      Effect    = "Allow"
      Principal = { AWS = "arn:${local.place.partition}:iam::${local.account_id}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })

  tags = var.tags
}

resource "aws_kms_alias" "secrets" {
  count = local.create_kms_key ? 1 : 0

  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.secrets[0].key_id
}
