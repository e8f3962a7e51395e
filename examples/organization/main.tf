# One deployment for three accounts: the hub, where the function runs, and two members. The DNS zone is in a fourth
# account. Terraform assumes a role in the other accounts, such as the one that AWS Organizations creates.

provider "aws" {
  region = var.region
}

provider "aws" {
  alias  = "member_a"
  region = var.region

  assume_role {
    role_arn = "arn:aws:iam::${var.member_a_account_id}:role/${var.terraform_role_name}"
  }
}

provider "aws" {
  alias  = "member_b"
  region = var.region

  assume_role {
    role_arn = "arn:aws:iam::${var.member_b_account_id}:role/${var.terraform_role_name}"
  }
}

provider "aws" {
  alias  = "dns"
  region = var.region

  assume_role {
    role_arn = "arn:aws:iam::${var.dns_account_id}:role/${var.terraform_role_name}"
  }
}

locals {
  dns_role_name = "${var.name}-dns"
}

# The hub.

module "ec2_decommission" {
  source = "../../"

  name    = var.name
  dry_run = var.dry_run

  organization = {
    members = {
      (var.member_a_account_id) = {} # the hub's region
      (var.member_b_account_id) = {}
    }
    external_id = var.external_id
  }

  route53 = {
    enabled = true
    zones = [{
      id          = var.zone_id
      role_arn    = "arn:aws:iam::${var.dns_account_id}:role/${local.dns_role_name}"
      external_id = var.external_id
    }]
    record_names = var.record_names
  }

  function = var.function
}

# The members. For another region of an account, call the module with create_role = false. modules/member/stackset.yaml
# does the same with CloudFormation StackSets.

module "member_a" {
  source = "../../modules/member"

  providers = { aws = aws.member_a }

  event_bus_arn     = module.ec2_decommission.event_bus_arn
  function_role_arn = module.ec2_decommission.role_arn
  external_id       = var.external_id
}

module "member_b" {
  source = "../../modules/member"

  providers = { aws = aws.member_b }

  event_bus_arn     = module.ec2_decommission.event_bus_arn
  function_role_arn = module.ec2_decommission.role_arn
  external_id       = var.external_id
}

# The zone's account: a role with the function's permissions for this zone.

resource "aws_iam_role" "dns" {
  provider = aws.dns

  name        = local.dns_role_name
  description = "Lets ec2-decommission remove records of terminated instances"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { AWS = module.ec2_decommission.role_arn }
      Condition = { StringEquals = { "sts:ExternalId" = var.external_id } }
    }]
  })
}

resource "aws_iam_role_policy" "dns" {
  provider = aws.dns

  name = "records"
  role = aws_iam_role.dns.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["route53:GetHostedZone", "route53:ListResourceRecordSets"]
        Resource = "arn:aws:route53:::hostedzone/${var.zone_id}"
      },
      {
        Effect   = "Allow"
        Action   = "route53:ChangeResourceRecordSets"
        Resource = "arn:aws:route53:::hostedzone/${var.zone_id}"
        Condition = {
          "ForAllValues:StringEquals" = {
            "route53:ChangeResourceRecordSetsActions"     = ["CREATE", "DELETE"]
            "route53:ChangeResourceRecordSetsRecordTypes" = ["A", "AAAA", "CNAME", "PTR"]
          }
        }
      },
    ]
  })
}
