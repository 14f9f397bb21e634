<?php
// Whether a request comes from corecast: $headers with names in lower case, $body as it came.
//
//   $headers = array_change_key_case(getallheaders());
//   $body = file_get_contents('php://input');
//   if (!comes_from_corecast($secret, $headers, $body)) { http_response_code(401); exit; }

function comes_from_corecast(string $secret, array $headers, string $body): bool
{
    $id = $headers['webhook-id'] ?? '';
    $at = $headers['webhook-timestamp'] ?? '';
    // What is older than five minutes may be a copy.
    if (!ctype_digit($at) || abs(time() - (int) $at) > 300) {
        return false;
    }
    $key = str_starts_with($secret, 'whsec_') ? base64_decode(substr($secret, 6)) : $secret;
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$at.$body", $key, true));
    // Several while a key is being changed.
    foreach (explode(' ', $headers['webhook-signature'] ?? '') as $signature) {
        if (hash_equals($expected, $signature)) {
            return true;
        }
    }
    return false;
}
