# The key that seals the secrets bundle: made only when there are secrets and no key was given.

resource "aws_kms_key" "secrets" {
  count = local.create_kms_key ? 1 : 0

  description             = "Seals the secrets of ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.kms_key[0].json

  tags = var.tags
}

resource "aws_kms_alias" "secrets" {
  count = local.create_kms_key ? 1 : 0

  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.secrets[0].key_id
}

# The account's own IAM policies decide who seals (the build) and who opens (the function).
data "aws_iam_policy_document" "kms_key" {
  #checkov:skip=CKV_AWS_109:A key policy speaks of its own key only, and must let the account administer it
  #checkov:skip=CKV_AWS_111:A key policy speaks of its own key only, and must let the account administer it
  #checkov:skip=CKV_AWS_356:A key policy speaks of its own key only, and must let the account administer it

  count = local.create_kms_key ? 1 : 0

  statement {
    sid       = "AccountAdministersTheKey"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account_id}:root"]
    }
  }
}
