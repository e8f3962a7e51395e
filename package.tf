# The function's code: built here by lambda/build (the default), a zip, or an S3 object. The data that differs between
# deployments (sealed secrets, settings, CA bundle) is in the zip that is built here, or in a layer next to another zip.
#
# Everything here depends on the inputs of the build, never on a zip. So a plan needs no zip, and a clean checkout with
# unchanged inputs plans no change.

locals {
  build = var.package.type == "build"
  # A layer has the data of this deployment, which a shared zip cannot contain.
  build_bundle = !local.build && !var.package.bundle_included && (local.has_secrets || local.has_settings || var.package.ca_bundle_file != null)

  # The files that lambda/build packages, by the same rules (lambda/build/archive.py).
  source_files = fileset("${path.module}/lambda", "{src,build}/**/{*.py,py.typed}")
  build_files  = [for file in local.source_files : file if startswith(file, "build/")]

  custom_step_files = {
    for name, step in local.custom_steps : name => [
      for file in fileset(step.source_dir, "**") : file
      if length(regexall("(^|/)(\\.|__pycache__/)|\\.pyc$", file)) == 0
    ]
  }

  # One entry for each reason to build again, so that a plan shows the reason.
  bundle_triggers = {
    name        = var.name
    rebuild     = var.package.rebuild
    secrets     = local.secrets
    settings    = local.settings
    vault       = { address = var.vault.address, namespace = var.vault.namespace, kv_version = var.vault.kv_version }
    kms_key_arn = local.kms_key_arn
    ca_bundle   = var.package.ca_bundle_file == null ? null : filesha256(var.package.ca_bundle_file)
    sources     = sha256(join("\n", [for file in(local.build ? local.source_files : local.build_files) : "${file} ${filesha256("${path.module}/lambda/${file}")}"]))
  }

  build_triggers = merge(local.bundle_triggers, {
    runtime      = var.function.runtime
    architecture = var.function.architecture
    features     = local.features
    dependencies = sha256(join("\n", [for file in fileset("${path.module}/lambda/requirements", "*.txt") : "${file} ${filesha256("${path.module}/lambda/requirements/${file}")}"]))

    custom_steps = {
      for name, step in local.custom_steps : name => sha256(join("\n", concat(
        [step.requirements_file == null ? "" : filesha256(step.requirements_file)],
        [for file in local.custom_step_files[name] : "${file} ${filesha256("${step.source_dir}/${file}")}"]
      )))
    }
  })

  # The name has a hash of the inputs, so that parallel calls of this module never write the same file.
  output_dir = coalesce(var.package.output_dir, "${path.root}/.terraform/ec2-decommission")
  build_zip  = "${local.output_dir}/${var.name}-${local.region}-${substr(sha256(jsonencode(local.build_triggers)), 0, 16)}.zip"
  bundle_zip = "${local.output_dir}/${var.name}-${local.region}-${substr(sha256(jsonencode(local.bundle_triggers)), 0, 16)}-bundle.zip"

  # The specification for lambda/build. It contains references to secrets, never a value.
  bundle_spec = merge(
    {
      name       = var.name
      secrets    = var.secrets
      http_steps = { for name, step in local.http_steps : name => { secrets = step.secrets } }
      vault      = var.vault
      kms = local.has_secrets ? {
        key_arn            = local.kms_key_arn
        region             = split(":", local.kms_key_arn)[3]
        role_arn           = var.package.build_role_arn
        encryption_context = local.encryption_context
      } : null
      settings = local.settings
    },
    { for key, file in { ca_bundle_file = var.package.ca_bundle_file } : key => file if file != null },
  )

  build_specs = {
    package = merge(local.bundle_spec, {
      output       = local.build_zip
      runtime      = var.function.runtime
      architecture = var.function.architecture
      features     = local.features
      custom_steps = {
        for name, step in local.custom_steps : name => {
          source_dir        = step.source_dir
          requirements_file = step.requirements_file
          secrets           = step.secrets
        }
      }
    })
    bundle = merge(local.bundle_spec, {
      kind         = "bundle"
      output       = local.bundle_zip
      custom_steps = { for name, step in local.custom_steps : name => { secrets = step.secrets } }
    })
  }

  prebuilt_sha256 = try(coalesce(var.package.code_sha256, try(filebase64sha256(var.package.zip_file), null)), null)

  code = {
    filename          = { build = one(terraform_data.package[*].output.zip), prebuilt = var.package.zip_file, s3 = null }[var.package.type]
    s3_bucket         = try(var.package.s3.bucket, null)
    s3_key            = try(var.package.s3.key, null)
    s3_object_version = try(var.package.s3.object_version, null)
    # The provider accepts any string: it updates the code when the string changes.
    source_code_hash = { build = one(terraform_data.package[*].id), prebuilt = local.prebuilt_sha256, s3 = var.package.code_sha256 }[var.package.type]
  }

  expected_code_sha256 = local.build ? one(terraform_data.package_sha256[*].output) : { prebuilt = local.prebuilt_sha256, s3 = var.package.code_sha256 }[var.package.type]
}

resource "terraform_data" "package" {
  count = local.build ? 1 : 0

  triggers_replace = local.build_triggers

  # The zip of the last build. A change of output_dir alone is no reason to build again.
  input = { zip = local.build_zip }

  provisioner "local-exec" {
    # Runs without a shell, so nothing needs quotes: python3 <module>/lambda/build
    interpreter = [var.package.python]
    command     = "${path.module}/lambda/build"
    environment = { BUILD_SPEC = jsonencode(local.build_specs.package) }
  }

  lifecycle {
    ignore_changes = [input]
  }
}

# The digest of the built zip. It is in the state, so the next plan does not need the zip.
resource "terraform_data" "package_sha256" {
  count = local.build ? 1 : 0

  input = try(filebase64sha256(terraform_data.package[0].output.zip), null)

  lifecycle {
    ignore_changes       = [input]
    replace_triggered_by = [terraform_data.package[0]]
  }
}

resource "terraform_data" "bundle" {
  count = local.build_bundle ? 1 : 0

  triggers_replace = local.bundle_triggers

  input = { zip = local.bundle_zip }

  provisioner "local-exec" {
    interpreter = [var.package.python]
    command     = "${path.module}/lambda/build"
    environment = { BUILD_SPEC = jsonencode(local.build_specs.bundle) }
  }

  lifecycle {
    ignore_changes = [input]
  }
}

# A function can still use a deleted layer version, so Terraform may delete the old version first.
resource "aws_lambda_layer_version" "bundle" {
  count = local.build_bundle ? 1 : 0

  layer_name       = "${var.name}-bundle"
  description      = "Sealed secrets and settings of the function ${var.name}"
  filename         = terraform_data.bundle[0].output.zip
  source_code_hash = terraform_data.bundle[0].id
}

# The time when the code was last deployed. It is created after the function and replaced with its code. `deployed_now`
# is known at plan: it is true if this plan deploys the code, or if an earlier apply failed to.
resource "terraform_data" "deployed" {
  input            = plantimestamp()
  triggers_replace = [aws_lambda_function.this.source_code_hash]

  lifecycle {
    ignore_changes       = [input]
    replace_triggered_by = [aws_lambda_function.this.arn]
  }
}

locals {
  deployed_now = terraform_data.deployed.input == plantimestamp()

  # A temporary machine loses the zip. That matters only if an earlier apply built a zip and failed before it used it.
  zips_to_deploy = local.deployed_now ? compact(concat(terraform_data.package[*].output.zip, terraform_data.bundle[*].output.zip)) : []
  missing_zips   = [for zip in local.zips_to_deploy : zip if !fileexists(zip)]
  build_is_here  = length(local.missing_zips) == 0
}
