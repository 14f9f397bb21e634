<?php
// The same backend as backend.py, in PHP: php -S 127.0.0.1:8000 backend.php

$secret = getenv('TOKEN_SECRET') ?: 'a secret of this example, 32 bytes long';
$api = getenv('API') ?: 'http://127.0.0.1:4001';
$user = $_GET['user'] ?? 'nobody';
// The page comes from the gateway, another origin than this.
$page = $_SERVER['HTTP_ORIGIN'] ?? '';
if (in_array($page, ['http://localhost:4000', 'http://127.0.0.1:4000'], true)) {
    header("Access-Control-Allow-Origin: $page");
}
header('Content-Type: text/plain; charset=utf-8');

function base64url(string $data): string
{
    return rtrim(strtr(base64_encode($data), '+/', '-_'), '=');
}

if ($_SERVER['REQUEST_METHOD'] === 'GET') {
    // An application checks a password here. The token (JWT, HS256) holds for an hour.
    $head = base64url(json_encode(['alg' => 'HS256', 'typ' => 'JWT']));
    $claims = base64url(json_encode(['sub' => $user, 'exp' => time() + 3600]));
    echo "$head.$claims." . base64url(hash_hmac('sha256', "$head.$claims", $secret, true));
    return;
}

// An event to all sockets of a user, by one request to the gateway.
$text = file_get_contents('php://input');
$command = ['users' => [$user], 'event' => 'notification', 'args' => [['text' => $text, 'at' => time()]]];
file_get_contents("$api/v1/emit", false, stream_context_create(['http' => [
    'method' => 'POST',
    'header' => 'Content-Type: application/json',
    'content' => json_encode($command),
]]));
echo "sent\n";
