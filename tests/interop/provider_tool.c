/* Whose cipher a program gets: for provider_test.sh. Usage: provider_tool NAME [PROPERTIES] prints the provider's name, or "none". One thread. */
#include <stdio.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3)
        return 2;
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, argv[1], argc == 3 ? argv[2] : NULL);
    puts(cipher ? OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cipher)) : "none");
    EVP_CIPHER_free(cipher);
    return 0;
}
