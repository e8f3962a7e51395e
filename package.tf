# What the function runs: built here by lambda/build (the default), a zip, or an S3 object.
#
# Everything here hangs on the build's inputs, never on the zip: a plan needs no zip, and a clean
# checkout with unchanged inputs plans empty.
#
# The price: where the zip was built, the function could not be made, and the next apply runs on another
# machine, the zip is missing there ("reading ZIP file ... no such file"). Then build it again:
#   terraform apply -replace='<address of this module>.terraform_data.package[0]'

locals {
  build = var.package.type == "build"

  # What lambda/build takes, by the same rules (lambda/build/archive.py).
  source_files = fileset("${path.module}/lambda", "{src,build}/**/{*.py,py.typed}")

  custom_step_files = {
    for name, step in local.custom_steps : name => [
      for file in fileset(step.source_dir, "**") : file
      if length(regexall("(^|/)(\\.|__pycache__/)|\\.pyc$", file)) == 0
    ]
  }

  # One entry for each reason to build again, so that a plan shows which of them it is.
  build_triggers = {
    name         = var.name
    runtime      = var.function.runtime
    architecture = var.function.architecture
    features     = local.features
    rebuild      = var.package.rebuild

    sources      = sha256(join("\n", [for file in local.source_files : "${file} ${filesha256("${path.module}/lambda/${file}")}"]))
    dependencies = sha256(join("\n", [for file in fileset("${path.module}/lambda/requirements", "*.txt") : "${file} ${filesha256("${path.module}/lambda/requirements/${file}")}"]))
    ca_bundle    = var.package.ca_bundle_file == null ? null : filesha256(var.package.ca_bundle_file)

    secrets     = local.secrets
    vault       = { address = var.vault.address, namespace = var.vault.namespace, kv_version = var.vault.kv_version }
    kms_key_arn = local.kms_key_arn

    custom_steps = {
      for name, step in local.custom_steps : name => sha256(join("\n", concat(
        [step.requirements_file == null ? "" : filesha256(step.requirements_file)],
        [for file in local.custom_step_files[name] : "${file} ${filesha256("${step.source_dir}/${file}")}"]
      )))
    }
  }

  # Named by its inputs: calls of this module side by side never write the same file.
  build_zip = join("/", [
    coalesce(var.package.output_dir, "${path.root}/.terraform/ec2-decommission"),
    "${var.name}-${local.region}-${substr(sha256(jsonencode(local.build_triggers)), 0, 16)}.zip"
  ])

  # What lambda/build reads. References to secrets only, never a value.
  build_spec = {
    output       = local.build_zip
    name         = var.name
    runtime      = var.function.runtime
    architecture = var.function.architecture
    features     = local.features
    secrets      = var.secrets
    vault        = var.vault
    kms = local.has_secrets ? {
      key_arn            = local.kms_key_arn
      region             = split(":", local.kms_key_arn)[3]
      role_arn           = var.package.build_role_arn
      encryption_context = local.encryption_context
    } : null
    ca_bundle_file = var.package.ca_bundle_file
    custom_steps = {
      for name, step in local.custom_steps : name => {
        source_dir        = step.source_dir
        requirements_file = step.requirements_file
        secrets           = step.secrets
      }
    }
  }

  prebuilt_sha256 = try(coalesce(var.package.code_sha256, try(filebase64sha256(var.package.zip_file), null)), null)

  code = {
    filename          = { build = one(terraform_data.package[*].output.zip), prebuilt = var.package.zip_file, s3 = null }[var.package.type]
    s3_bucket         = try(var.package.s3.bucket, null)
    s3_key            = try(var.package.s3.key, null)
    s3_object_version = try(var.package.s3.object_version, null)
    # The provider takes any string: it updates the code when this one changes.
    source_code_hash = { build = one(terraform_data.package[*].id), prebuilt = local.prebuilt_sha256, s3 = var.package.code_sha256 }[var.package.type]
  }

  expected_code_sha256 = local.build ? one(terraform_data.package_sha256[*].output) : { prebuilt = local.prebuilt_sha256, s3 = var.package.code_sha256 }[var.package.type]
}

resource "terraform_data" "package" {
  count = local.build ? 1 : 0

  triggers_replace = local.build_triggers

  # Where the zip was written when it was last built: another output_dir alone is no reason to build.
  input = { zip = local.build_zip }

  provisioner "local-exec" {
    # No shell in between, so no quoting: python3 <module>/lambda/build
    interpreter = [var.package.python]
    command     = "${path.module}/lambda/build"
    environment = { BUILD_SPEC = jsonencode(local.build_spec) }
  }

  lifecycle {
    ignore_changes = [input]
  }
}

# The digest of what was built, kept in the state: the zip need not be there at the next plan.
resource "terraform_data" "package_sha256" {
  count = local.build ? 1 : 0

  input = try(filebase64sha256(terraform_data.package[0].output.zip), null)

  lifecycle {
    ignore_changes       = [input]
    replace_triggered_by = [terraform_data.package[0]]
  }
}
