<?php
// A backend for webhooks: APP_SECRET=... php -S 127.0.0.1:8000 webhook.php, and in corecast.toml
//
//   [[webhook]]
//   name = "app"
//   url = "http://127.0.0.1:8000/"
//   secret = "the same"       # 16 bytes or more
//   on = ["connect", "disconnect"]

require __DIR__ . '/verify.php';

$headers = array_change_key_case(getallheaders());
$body = file_get_contents('php://input');
$secret = getenv('APP_SECRET');
if (!$secret || !comes_from_corecast($secret, $headers, $body)) {
    http_response_code(401);
    exit;
}
$told = json_decode($body, true);
header('Content-Type: application/json');
switch ($told['type']) {
    case 'connect':    // $told['auth'] is what the client has sent
        $name = $told['auth']['name'] ?? '';
        $refusal = ['refuse' => ['message' => 'a name is needed']];
        echo json_encode($name === '' ? $refusal : ['user' => $name, 'rooms' => ['lobby']]);
        break;
    case 'event':      // the answer is the acknowledgement of the client
        echo json_encode(['ok' => true, 'from' => $told['user'], 'args' => $told['args']]);
        break;
    default:           // nobody waits
        error_log("{$told['type']}: {$told['user']}");
}
