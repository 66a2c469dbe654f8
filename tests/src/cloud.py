# Does one thing to a bucket or container, with the provider's own client: a request as JSON in, the answer as JSON out.
import base64, datetime, json, sys, urllib.request

PREFIX = "audit/"
request = json.load(sys.stdin)
bucket, key, do = request["bucket"], PREFIX + request.get("key", ""), request["do"]


def s3():
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=request["endpoint"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="secret-of-the-test",
    )
    if do == "create":
        days = request.get("lock_days")
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=days is not None)
        if days is not None:
            rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": days}}
            client.put_object_lock_configuration(
                Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
            )
        if request.get("versioned"):
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    elif do == "list":
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=PREFIX)
        return sorted(o["Key"][len(PREFIX) :] for page in pages for o in page.get("Contents", []))
    elif do == "versions":
        count = {}
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=PREFIX):
            for version in page.get("Versions", []) + page.get("DeleteMarkers", []):
                name = version["Key"][len(PREFIX) :]
                count[name] = count.get(name, 0) + 1
        return count
    elif do == "encryption":
        return client.head_object(Bucket=bucket, Key=key).get("ServerSideEncryption")
    elif do == "guard":
        # An account for each set of rights; from now on the server asks for signatures and rights.
        iam = boto3.client("iam", endpoint_url=request["endpoint"], region_name="us-east-1",
                           aws_access_key_id="test", aws_secret_access_key="secret-of-the-test")
        keys = {}
        for name, actions in request["rights"].items():
            iam.create_user(UserName=name)
            statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
            made = iam.create_access_key(UserName=name)["AccessKey"]
            keys[name] = [made["AccessKeyId"], made["SecretAccessKey"]]
        plain = {"Content-Type": "text/plain"}
        ask = urllib.request.Request(request["endpoint"] + "/moto-api/reset-auth", data=b"0", headers=plain)
        urllib.request.urlopen(ask).read()
        return keys
    elif do == "read":
        return base64.b64encode(client.get_object(Bucket=bucket, Key=key)["Body"].read()).decode()
    elif do == "write":
        client.put_object(Bucket=bucket, Key=key, Body=base64.b64decode(request["body"]))
    elif do == "delete":
        client.delete_object(Bucket=bucket, Key=key)


def azure():
    from azure.storage.blob import BlobServiceClient, generate_container_sas

    account, secret = request["account"]
    service = BlobServiceClient(request["endpoint"], credential={"account_name": account, "account_key": secret})
    container = service.get_container_client(bucket)
    if do == "create":
        container.create_container()
    elif do == "list":
        return sorted(b.name[len(PREFIX) :] for b in container.list_blobs(name_starts_with=PREFIX))
    elif do == "sas":
        ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=request["minutes"])
        return generate_container_sas(
            account, bucket, account_key=secret, permission=request["permissions"],
            start=ends - datetime.timedelta(hours=1), expiry=ends,
        )
    elif do == "read":
        return base64.b64encode(container.download_blob(key).readall()).decode()
    elif do == "write":
        container.upload_blob(key, base64.b64decode(request["body"]), overwrite=True)
    elif do == "delete":
        container.delete_blob(key)


json.dump(s3() if request["kind"] == "S3" else azure(), sys.stdout)
