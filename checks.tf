# Lambda records a code update as done even where it failed, and the next plan would say "No changes".

check "deployed_code" {
  assert {
    condition     = local.expected_code_sha256 == null ? true : aws_lambda_function.this.code_sha256 == local.expected_code_sha256
    error_message = "The function ${var.name} does not run the code that was last built for it: an update failed, or somebody else deployed. Build and deploy again with: terraform apply -replace='<address of this module>.terraform_data.package[0]' (or change package.rebuild)."
  }
}
